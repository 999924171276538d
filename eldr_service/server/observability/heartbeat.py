"""Measures how long the event loop is blocked, by how late a regular beat is."""

import asyncio
import time
from collections.abc import Callable

BEAT_SECONDS = 0.01


async def beat(observe: Callable[[float], None]) -> None:
    """Report by how many seconds each beat is late, until cancelled."""
    while True:
        due = time.monotonic() + BEAT_SECONDS
        await asyncio.sleep(BEAT_SECONDS)
        observe(max(0.0, time.monotonic() - due))
