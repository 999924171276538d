"""Learned state for replicas that start: the leader saves it in the shared state."""

import asyncio

from eldr_service.server.replicas.mirror import MirroredStore
from eldr_service.stores.learned import LearnedStore
from eldr_service.stores.shared.operations import Operation
from eldr_service.stores.shared.state import SharedState


class SharedLearned(LearnedStore):
    """Holds what was learned until this replica has restored it; what it saves goes to all.

    Parameters
    ----------
    store : MirroredStore
    """

    def __init__(self, store: MirroredStore) -> None:
        super().__init__(store)
        self._mirror = store
        self._loop: asyncio.AbstractEventLoop | None = None

    async def fill(self, state: SharedState) -> None:
        """Load what the shared state has for the models in the store."""
        workers = {worker.model for worker in self._mirror.workers()}
        for model in sorted(workers | {model.name for model in self._mirror.models()}):
            if learned := await state.learned(model):
                super().keep(model, *learned)
            for data, until in await state.recent(model):
                super().keep_recent(model, until, 0.0, data)
        self._loop = asyncio.get_running_loop()

    def forget(self) -> None:
        """Drop what has been restored."""
        for model in {worker.model for worker in self._mirror.workers()}:
            self.clear_recent(model)

    def keep(self, model: str, policy: str, saved: float, data: bytes) -> None:
        """Save learned state."""
        self._tell(("learned", model, policy, repr(saved), data))

    def keep_recent(self, model: str, until: float, oldest: float, data: bytes) -> None:
        """Save a piece of recent counts."""
        self._tell(("recent", model, repr(until), repr(oldest), data))

    def _tell(self, operation: Operation) -> None:
        """Queue an operation from a thread, without waiting for an answer."""
        if self._loop:
            self._loop.call_soon_threadsafe(self._told, operation)

    def _told(self, operation: Operation) -> None:
        if self._mirror.tell and not self._mirror.apart:  # if apart, the next half minute will do
            self._mirror.tell(operation, None)
