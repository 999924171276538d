"""Watchers of moves. Without a watcher no moves are looked for."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from eldr_service.core.errors import ResourceExhaustedError
from eldr_service.routing.moves import Proposal

MAX_BEHIND = 256
"""Proposals that a watcher has not read; further ones are dropped, as they would be stale."""
MAX_WATCHERS = 64
"""Watchers per model."""
RETRY_SECONDS = 10.0


class MoveWatchers:
    """Tells each model's watchers what its policy proposes after bookings and ends.

    Parameters
    ----------
    propose : callable (model, now) -> Proposal or None
    """

    def __init__(self, propose: Callable[[str, float], Proposal | None]) -> None:
        self._propose = propose
        self._watchers: dict[str, set[asyncio.Queue[Proposal]]] = {}
        self._due: set[str] = set()

    def changed(self, model: str) -> None:
        """A request of the model was booked or ended: look for a move after this step."""
        if model in self._watchers and model not in self._due:
            self._due.add(model)
            asyncio.get_running_loop().call_soon(self._look, model)

    async def watch(self, model: str) -> AsyncIterator[Proposal]:
        """Every proposal from now on.

        Raises
        ------
        ResourceExhaustedError
            There are too many watchers.
        """
        watchers = self._watchers.setdefault(model, set())
        if len(watchers) >= MAX_WATCHERS:
            watching = f"{MAX_WATCHERS} watch the moves of model {model} already"
            raise ResourceExhaustedError(watching, RETRY_SECONDS)
        told: asyncio.Queue[Proposal] = asyncio.Queue(MAX_BEHIND)
        watchers.add(told)
        try:
            while True:
                yield await told.get()
        finally:
            watchers.discard(told)
            if not watchers and self._watchers.get(model) is watchers:
                del self._watchers[model]

    def _look(self, model: str) -> None:
        self._due.discard(model)
        if not (watchers := self._watchers.get(model)):
            return
        if proposal := self._propose(model, time.monotonic()):
            for told in watchers:
                with contextlib.suppress(asyncio.QueueFull):
                    told.put_nowait(proposal)
