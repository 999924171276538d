"""Saves what was learned from traffic every half minute, in steps of the event loop."""

import asyncio
import time

import structlog

from eldr_service.routing.model import Model
from eldr_service.routing.router import Router
from eldr_service.stores.learned import Learned, LearnedStore
from eldr_service.stores.records import StoreError

SNAPSHOT_SECONDS = 30.0
PIECE_BYTES = 1 << 20
"""Recent counts copied in one step: a fraction of a millisecond."""

log = structlog.get_logger("eldr")


class Learning:
    """Saves what policies have learned, and the recent counts that partitions are fitted on.

    All of it can be learned again: what cannot be read is skipped with a warning.

    Parameters
    ----------
    router : Router
    store : LearnedStore
    """

    def __init__(self, router: Router, store: LearnedStore) -> None:
        self._router = router
        self._store = store
        self._kept: dict[str, int] = {}  # by model, how many of its recent counts are saved
        self._next = 0.0
        self._saving: asyncio.Task[None] | None = None

    def restore(self, now: float) -> None:
        """Restore what an earlier run learned, before its bookings are counted."""
        self._next = now + SNAPSHOT_SECONDS
        clock = time.time() - now
        for model in self._router.models.values():
            try:
                self._restore(model, clock, now)
            except Exception:  # a policy may be a plugin, or of another version
                log.exception("not relearned", model=model.name)

    def _restore(self, model: Model, clock: float, now: float) -> None:
        for counts, times in self._store.recent(model.name, clock + now - model.recent.span):
            geometry = model.geometry
            if geometry and counts.shape[1:] == (geometry.num_layers, geometry.num_experts):
                for row, seen in zip(counts, times.tolist(), strict=True):
                    model.recent.add(row, min(seen - clock, now))
        self._kept[model.name] = model.recent.kept
        learned = self._store.of(model.name)
        if learned and learned.policy == model.policy.name:
            model.policy.relearn(learned.arrays)

    def leave(self) -> None:
        """Skip what was seen so far: another replica saves it."""
        for model in self._router.models.values():
            self._kept[model.name] = model.recent.kept

    def tick(self, now: float) -> None:
        """Save if it is time."""
        if now >= self._next and (self._saving is None or self._saving.done()):
            self._next = now + SNAPSHOT_SECONDS
            self._saving = asyncio.create_task(self._save_all())

    async def close(self) -> None:
        """Save all that is new."""
        if self._saving:
            await self._saving
        await self._save_all()

    async def _save_all(self) -> None:
        for model in list(self._router.models.values()):
            try:
                await self._save(model)
            except StoreError as error:
                log.warning("what was learned is not saved", model=model.name, error=str(error))
                return

    async def _save(self, model: Model) -> None:
        clock = time.time() - time.monotonic()
        if arrays := model.policy.learned():
            learned = Learned(model.policy.name, time.time(), arrays)
            await asyncio.to_thread(self._store.save, model.name, learned)
        recent = model.recent
        while recent.kept > self._kept.get(model.name, 0):
            kept, counts, times = recent.after(self._kept.get(model.name, 0), PIECE_BYTES)
            oldest = recent.oldest + clock
            await asyncio.to_thread(
                self._store.add_recent, model.name, counts, times + clock, oldest
            )
            self._kept[model.name] = kept
