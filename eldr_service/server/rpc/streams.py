"""What both bidirectional streams have in common: each message is answered once, in any order."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

Request = TypeVar("Request")
Response = TypeVar("Response")
Settle = Callable[[bool], None]
"""Told once whether an answer was sent."""

MAX_WAITING = 1_024


def unbooked(sent: bool) -> None:
    """Nothing hangs on an answer that booked nothing."""


async def answer_each(
    context: grpc.aio.ServicerContext[Request, Response],
    answer: Callable[[Request], Awaitable[tuple[Response, Settle]]],
    waits: Callable[[Request], bool],
) -> None:
    """Answer every message of a stream; `answer` also says what is to be told of its sending.

    Messages that must wait for something (`waits`) are answered beside the others, at most 1,024 at
    a time; then the stream is not read further until one of them is done.
    """
    waiting: set[asyncio.Task[None]] = set()
    writing = asyncio.Lock()

    async def respond(request: Request) -> None:
        response, settle = await answer(request)
        sent = False
        try:
            async with writing:
                await context.write(response)
            sent = True
        finally:
            settle(sent)

    try:
        # Cheaper than gRPC's iterator over requests.
        while (request := await context.read()) is not grpc.aio.EOF:
            if not waits(request):
                await respond(request)
                continue
            if len(waiting) >= MAX_WAITING:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(respond(request))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        if waiting:
            await asyncio.gather(*waiting)
    finally:
        for task in waiting:
            task.cancel()
