"""Waiting for a signature that has not fully arrived."""

import asyncio
from collections.abc import Callable

Key = tuple[str, str]


class SignatureWaiters:
    """Calls that wait until a request's signature is complete, or their time is over."""

    def __init__(self) -> None:
        self._waiting: dict[Key, set[asyncio.Future[None]]] = {}

    def waits(self, key: Key) -> bool:
        """Whether a call waits for this request's signature."""
        return key in self._waiting

    def complete(self, key: Key) -> None:
        """Wake the calls that wait for this request."""
        for future in self._waiting.pop(key, ()):
            if not future.done():
                future.set_result(None)

    async def wait(self, key: Key, timeout: float, is_complete: Callable[[], bool]) -> None:
        """Return when the signature is complete, or after `timeout` seconds."""
        if timeout <= 0 or is_complete():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, set()).add(future)
        try:
            await asyncio.wait_for(future, timeout)
        except TimeoutError:
            pass  # the decision uses what has arrived
        finally:
            if waiting := self._waiting.get(key):
                waiting.discard(future)
                if not waiting:
                    del self._waiting[key]
