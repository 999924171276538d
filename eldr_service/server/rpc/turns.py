"""What a long message asks for goes in slices of the event loop: other calls come between."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from eldr_service.routing.reports import Steps

T = TypeVar("T")


async def slices(items: Sequence[T], size: int) -> AsyncIterator[Sequence[T]]:
    """Items, so many at a time; one slice where there are none.

    Where there are several, others have their turns before, between and after.
    """
    is_long = len(items) > size
    for start in range(0, max(len(items), 1), size):
        if is_long:
            await asyncio.sleep(0)
        yield items[start : start + size]
    if is_long:
        await asyncio.sleep(0)


async def let_go(items: dict[T, None], size: int) -> None:
    """Empty a dictionary: to free many items at once would hold the loop, too."""
    while items:
        for _ in range(min(size, len(items))):
            items.popitem()
        if items:
            await asyncio.sleep(0)


def in_turns(steps: Steps[T]) -> asyncio.Future[T]:
    """Take steps, and let others have their turns between.

    All are taken, even where the caller is cancelled: what was begun is not left half done.
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
