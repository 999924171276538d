"""Operations queued for the shared state: in order, many at a time."""

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice

from eldr_service.server.replicas.turns import Turns
from eldr_service.stores.records import StoreError
from eldr_service.stores.shared.operations import Operation, Result
from eldr_service.stores.shared.state import SharedState

MOST_PENDING = 1_000_000
MOST_TOGETHER = 64
"""Operations per server step, which takes some milliseconds and blocks the server."""

Make = Callable[[], Operation]
"""Makes the operation when it is sent: later is more accurate."""
Hear = Callable[[Result], None]


class Commits:
    """What a replica has done and the others do not know yet.

    An operation stays queued until the server has answered it: what was in flight when a connection
    broke is sent again, and has no effect the second time.

    Parameters
    ----------
    state : SharedState

    Attributes
    ----------
    overflowed : bool
        Whether the queue was full and was dropped: everything must be published anew.
    """

    def __init__(self, state: SharedState) -> None:
        self._state = state
        self._pending: deque[tuple[Make, Hear | None]] = deque()
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._added = self._done = 0
        self.overflowed = False
        self._work = asyncio.Event()

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, make: Make, hear: Hear | None = None) -> None:
        """Queue an operation; `hear` gets its result."""
        if len(self._pending) >= MOST_PENDING:
            self.clear()
            self.overflowed = True
        self._pending.append((make, hear))
        self._added += 1
        self._work.set()

    def clear(self) -> None:
        """Drop the queue."""
        self.overflowed = False
        self._done += len(self._pending)
        self._pending.clear()

    def through(self) -> asyncio.Future[None] | None:
        """What to wait for until everything now queued is answered; None for nothing."""
        if not self._pending:
            return None
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._added, future))
        return future

    def let_go(self) -> None:
        """Release everything that waits."""
        while self._waiting:
            _resolve(self._waiting.popleft()[1])

    async def run(self) -> None:
        """Commit what is queued until the server fails, which raises StoreError."""
        while True:
            await self._work.wait()
            if self.overflowed:
                raise StoreError(f"more than {MOST_PENDING} operations wait to be committed")
            group = list(islice(self._pending, MOST_TOGETHER))
            if not group:
                self._work.clear()
                continue
            turns, operations = Turns(), []
            for make, _ in group:
                operations.append(make())
                await turns.give()
            _, results = await self._state.commit(operations)
            for (_, hear), result in zip(group, results, strict=True):
                self._pending.popleft()
                self._done += 1
                if hear:
                    hear(result)
            while self._waiting and self._waiting[0][0] <= self._done:
                _resolve(self._waiting.popleft()[1])


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():  # its caller may be gone
        future.set_result(None)
