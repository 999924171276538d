"""What was learned, for replicas that start: the one that leads saves it in the shared state."""

import asyncio

from eldr_service.server.replicas.mirror import MirroredStore
from eldr_service.stores.learned import LearnedStore
from eldr_service.stores.shared.operations import Operation
from eldr_service.stores.shared.state import SharedState


class SharedLearned(LearnedStore):
    """Holds what was learned until this replica has taken it in; what is saved goes to all.

    Parameters
    ----------
    store : MirroredStore
    """

    def __init__(self, store: MirroredStore) -> None:
        super().__init__(store)
        self._mirror = store
        self._loop: asyncio.AbstractEventLoop | None = None

    async def fill(self, state: SharedState) -> None:
        """Take in what the shared state has of the models that the store knows."""
        workers = {worker.model for worker in self._mirror.workers()}
        for model in sorted(workers | {model.name for model in self._mirror.models()}):
            if learned := await state.learned(model):
                super().keep(model, *learned)
            for data, until in await state.recent(model):
                super().keep_recent(model, until, 0.0, data)
        self._loop = asyncio.get_running_loop()

    def forget(self) -> None:
        """Let go of what has been taken in."""
        for model in {worker.model for worker in self._mirror.workers()}:
            self.clear_recent(model)

    def keep(self, model: str, policy: str, saved: float, data: bytes) -> None:
        """Have it kept."""
        self._tell(("learned", model, policy, repr(saved), data))

    def keep_recent(self, model: str, until: float, oldest: float, data: bytes) -> None:
        """Have a piece kept."""
        self._tell(("recent", model, repr(until), repr(oldest), data))

    def _tell(self, operation: Operation) -> None:
        """From a thread that waits for no answer."""
        if self._loop:
            self._loop.call_soon_threadsafe(self._told, operation)

    def _told(self, operation: Operation) -> None:
        if self._mirror.tell and not self._mirror.apart:  # apart, the next half minute will do
            self._mirror.tell(operation, None)
