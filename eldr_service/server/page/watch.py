"""The page's state, composed once per second for all viewers, and not at all without viewers."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress

from eldr_service.core.partition import Partition
from eldr_service.refits import Refits
from eldr_service.routing.router import Router
from eldr_service.server.comparison.comparisons import Comparisons
from eldr_service.server.page.followed import Following, Placement
from eldr_service.server.page.view import Document, document, of_placement
from eldr_service.server.rpc.caller import Caller, Models

SECONDS = 1.0
MOST_VIEWERS = 64


class TooManyViewersError(Exception):
    """The page has as many viewers as it may have."""


class Shown:
    """What is shown at one moment; each part is written once for all viewers that see the same.

    Parameters
    ----------
    document : Document
        All but the placements.
    newest : callable (models) -> list of Placement
        The newest of these models together.
    """

    def __init__(
        self, document: Document, newest: Callable[[Iterable[str]], list[Placement]]
    ) -> None:
        self._document = document
        self._newest = newest
        self._models: dict[Models | None, tuple[list[str], bytes]] = {}
        self._placements: dict[tuple[str, ...], bytes] = {}

    def to(self, caller: Caller, chosen: str | None) -> bytes:
        """What a caller may see, as JSON, with placements of the chosen model, or of all models."""
        if caller.models not in self._models:
            self._models[caller.models] = self._models_of(caller)
        names, document = self._models[caller.models]
        of = tuple(name for name in names if chosen in (None, name))
        if of not in self._placements:
            told = [of_placement(placement) for placement in self._newest(of)]
            self._placements[of] = json.dumps(told).encode()
        return document[:-1] + b', "placements": ' + self._placements[of] + b"}"

    def _models_of(self, caller: Caller) -> tuple[list[str], bytes]:
        models = [m for m in self._document["models"] if caller.may_touch(m["name"])]
        written = json.dumps(self._document | {"models": models}).encode()
        return [m["name"] for m in models], written


class Watch(Following):
    """Follows decisions, and sends viewers what they see.

    Call `watch` before anything else.

    Parameters
    ----------
    waiting : callable (model) -> int
        Returns how many calls wait for a place.
    troubles : callable () -> str
        Says what is wrong; empty if nothing is.
    serving : callable () -> bool
    comparisons : Comparisons
        Comparisons with load alone.
    """

    def __init__(
        self,
        waiting: Callable[[str], int],
        troubles: Callable[[], str],
        serving: Callable[[], bool],
        comparisons: Comparisons,
    ) -> None:
        super().__init__(self._partition_of)
        self._router: Router
        self._refits: Refits
        self._waiting = waiting
        self._troubles = troubles
        self._serving = serving
        self._comparisons = comparisons
        self._viewers: set[asyncio.Queue[Shown | None]] = set()
        self._task: asyncio.Task[None] | None = None

    def watch(self, router: Router, refits: Refits) -> None:
        """Show these from now on; they are never changed."""
        self._router, self._refits = router, refits

    async def documents(self, caller: Caller, chosen: str | None) -> AsyncIterator[bytes]:
        """Yield what the caller may see, as JSON, now and every second, as `Shown.to` has it.

        Raises
        ------
        TooManyViewersError
        """
        if len(self._viewers) >= MOST_VIEWERS:
            raise TooManyViewersError(f"the page has {MOST_VIEWERS} viewers already")
        told: asyncio.Queue[Shown | None] = asyncio.Queue(1)
        self._viewers.add(told)
        try:
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._tell())
            yield self.now().to(caller, chosen)
            while shown := await told.get():
                yield shown.to(caller, chosen)
        finally:
            self._viewers.discard(told)

    def now(self) -> Shown:
        """What to show at this moment."""
        models = self._router.models
        for model in models.values():
            self.keep_only(
                model.name, {model.fleet.spec(r).worker_id: r for r in model.fleet.rows()}
            )
        self._comparisons.look(time.monotonic())
        shown = document(
            [
                (model, self.of(name), self._comparisons.of(name))
                for name, model in sorted(models.items())
            ],
            self._comparisons.on,
            self._refits,
            self._waiting,
            self._troubles(),
            self._serving(),
        )
        return Shown(shown, self.newest)

    def close(self) -> None:
        """End the streams of all viewers."""
        if self._task:
            self._task.cancel()
        self._tell_viewers(None)

    def _partition_of(self, model: str) -> Partition | None:
        found = self._router.models.get(model)
        return found.partition if found else None

    async def _tell(self) -> None:
        """Compose a document every second while there are viewers."""
        await asyncio.sleep(SECONDS)
        while self._viewers:
            self._tell_viewers(self.now())
            await asyncio.sleep(SECONDS)

    def _tell_viewers(self, shown: Shown | None) -> None:
        for viewer in self._viewers:
            with suppress(asyncio.QueueEmpty):  # a slow viewer gets only the newest
                viewer.get_nowait()
            viewer.put_nowait(shown)
