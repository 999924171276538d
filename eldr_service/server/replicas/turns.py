"""Others have their turns of the event loop while much is told, or much is taken in."""

import asyncio
import time

MOST_SECONDS = 1e-3


class Turns:
    """Ends the loop's step where it has gone on for a millisecond."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    async def give(self) -> None:
        """Let others have their turn, if this one has been long."""
        if time.perf_counter() - self._began > MOST_SECONDS:
            await asyncio.sleep(0)
            self._began = time.perf_counter()
