"""Yields the event loop to other tasks while much is published or loaded."""

import asyncio
import time

MOST_SECONDS = 1e-3


class Turns:
    """Ends the loop's step after a millisecond."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    async def give(self) -> None:
        """Let other tasks run, if this step has been long."""
        if time.perf_counter() - self._began > MOST_SECONDS:
            await asyncio.sleep(0)
            self._began = time.perf_counter()
