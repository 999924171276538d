"""Runs the sources: snapshots go to the fleet, errors to the log and metrics."""

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog

from eldr_service.routing.router import Router
from eldr_service.routing.workers import Workers
from eldr_service.server.discovery.membership import Membership
from eldr_service.server.discovery.remembered import Remembered
from eldr_service.server.discovery.source import Key, Snapshot, Source
from eldr_service.stores.records import StoreError

START_SECONDS = 10.0
"""Most time to wait for each source's first snapshot: earlier bookings return to its workers."""
RESTART_SECONDS = 5.0
TICK_SECONDS = 0.25
SAVE_SECONDS = 2.0

Tell = Callable[[str, bool, int], None]
"""Called with a source, whether it could be read, and how many workers it has."""

log = structlog.get_logger("eldr")


class _Followed:
    """One source and its current state."""

    def __init__(
        self, source: Source, membership: Membership, remembered: Remembered, tell: Tell
    ) -> None:
        self.source, self.membership = source, membership
        self._remembered = remembered
        self.has_spoken = asyncio.Event()
        self._tell = tell
        self._trouble = ""
        self._workers = 0
        self._unsaved: Snapshot | None = None

    async def run(self) -> None:
        """Follow the source; an unexpected error must not end that for good."""
        while True:
            try:
                await self.source.follow(self._take, self._fail)
            except Exception as error:  # any error: the traceback is logged
                log.exception("source failed", source=self.source.name)
                self._fail(f"{type(error).__name__}: {error}")
            await asyncio.sleep(RESTART_SECONDS)

    async def _take(self, snapshot: Snapshot, flaw: str = "") -> None:
        await self.membership.follow(snapshot, time.monotonic())
        self._workers, self._unsaved = len(snapshot), snapshot
        self.has_spoken.set()
        if flaw:
            self._fail(flaw)
            return
        if self._trouble:
            log.info("source read again", source=self.source.name)
        self._trouble = ""
        self._tell(self.source.name, True, self._workers)

    async def recall(self) -> None:
        """Use what the source listed in an earlier run, until it lists something."""
        snapshot = self._remembered.of(self.source.name)
        self._workers = len(snapshot)
        log.warning(
            "source not read yet: its workers of an earlier run stay",
            source=self.source.name,
            workers=self._workers,
        )
        await self.membership.follow(snapshot, time.monotonic())

    def save(self) -> None:
        """Save what the source listed last, unless that is saved already."""
        if self._unsaved is not None:
            self._remembered.keep(self.source.name, self._unsaved)
            self._unsaved = None

    def _fail(self, trouble: str) -> None:
        self._tell(self.source.name, False, self._workers)
        if trouble != self._trouble:
            self._trouble = trouble
            log.error(
                "source not read, or not in full: its last known workers stay",
                source=self.source.name,
                workers=self._workers,
                error=trouble,
            )


class Discovery:
    """All sources of workers that do not register by themselves.

    Parameters
    ----------
    sources : sequence of Source
    router : Router
    workers : Workers
    drain_seconds : float
        For bookings on a worker that its source no longer lists.
    tell : callable
        Reports to the metrics.
    remembered : Remembered
        What sources listed in an earlier run.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        router: Router,
        workers: Workers,
        drain_seconds: float,
        tell: Tell,
        remembered: Remembered,
    ) -> None:
        owners: dict[Key, str] = {}
        self._followed = [
            _Followed(
                source,
                Membership(
                    source=source.name,
                    router=router,
                    workers=workers,
                    drain_seconds=drain_seconds,
                    owners=owners,
                ),
                remembered,
                tell,
            )
            for source in sources
        ]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Follow the sources; returns when each was read, or after `START_SECONDS`."""
        self._tasks = [asyncio.create_task(followed.run()) for followed in self._followed]
        first = [asyncio.create_task(f.has_spoken.wait()) for f in self._followed]
        if first:
            await asyncio.wait(first, timeout=START_SECONDS)
        for followed, spoken in zip(self._followed, first, strict=True):
            spoken.cancel()
            if not followed.has_spoken.is_set():
                await followed.recall()
        if first:
            self._tasks.append(asyncio.create_task(self._tick()))

    def close(self) -> None:
        """Stop following the sources."""
        self._save()
        for task in self._tasks:
            task.cancel()

    async def _tick(self) -> None:
        next_save = 0.0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            for followed in self._followed:
                await followed.membership.tick(now)
            if now >= next_save:
                next_save = now + SAVE_SECONDS
                self._save()

    def _save(self) -> None:
        try:
            for followed in self._followed:
                followed.save()
        except StoreError as error:  # the next start may have to wait for its sources
            log.error("found workers not saved", error=str(error))
