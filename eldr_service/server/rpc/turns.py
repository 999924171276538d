"""Splits the work of long messages into slices of the event loop, between which other calls run."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from eldr_service.routing.reports import Steps

T = TypeVar("T")


async def slices(items: Sequence[T], size: int) -> AsyncIterator[Sequence[T]]:
    """Items in slices of `size`; a single slice if there are none.

    If there are several, other tasks run before, between and after them.
    """
    is_long = len(items) > size
    for start in range(0, max(len(items), 1), size):
        if is_long:
            await asyncio.sleep(0)
        yield items[start : start + size]
    if is_long:
        await asyncio.sleep(0)


async def let_go(items: dict[T, None], size: int) -> None:
    """Empty a dictionary in slices: freeing many items at once would also block the loop."""
    while items:
        for _ in range(min(size, len(items))):
            items.popitem()
        if items:
            await asyncio.sleep(0)


def in_turns(steps: Steps[T]) -> asyncio.Future[T]:
    """Run all steps, letting other tasks run in between.

    All are run, even if the caller is cancelled: what was begun is not left half done.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def step() -> None:
        try:
            next(steps)
        except StopIteration as end:
            if not done.done():
                done.set_result(end.value)
        except Exception as error:
            if done.done():
                raise
            done.set_exception(error)
        else:
            loop.call_soon(step)

    step()
    return done
