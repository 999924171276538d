"""What both bidirectional streams share: each message is answered once, in any order."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

import grpc

from eldr_service.server.rpc.unread import Write, while_read

Request = TypeVar("Request")
Response = TypeVar("Response")
Settle = Callable[[bool], None]
"""Called once with whether an answer was sent."""
Answer = Callable[[Request], Awaitable[tuple[Response, Settle]]]
"""Answers a message, and returns what to call about the answer's sending."""

MAX_WAITING = 1_024
MAX_WAITING_IN_ALL = 16_384

_in_all: set[asyncio.Task[None]] = set()


def unbooked(sent: bool) -> None:
    """For an answer that booked nothing."""


async def answer_each(
    context: grpc.aio.ServicerContext[Request, Response],
    answer: Answer[Request, Response],
    waits: Callable[[Request], bool],
    written: Callable[[], Awaitable[None] | None],
) -> None:
    """Answer every message of a stream; `answer` also returns what to call about its sending.

    Answers leave after what they say is `written`. Messages that must wait for something (`waits`),
    and answers that do, are handled concurrently, at most 1,024 per stream and 16,384 over all
    streams; then the stream is not read further until one of its own is done. A stream whose
    answers are not read ends.
    """
    async with while_read(context) as write:
        await _answer_each(context, write, answer, waits, written)


async def _answer_each(
    context: grpc.aio.ServicerContext[Request, Response],
    write: Write,
    answer: Answer[Request, Response],
    waits: Callable[[Request], bool],
    written: Callable[[], Awaitable[None] | None],
) -> None:
    waiting: set[asyncio.Task[None]] = set()
    writing = asyncio.Lock()

    async def send(response: Response, settle: Settle, kept: Awaitable[None] | None) -> None:
        sent = False
        try:
            if kept:
                await kept
            async with writing:
                await write(response)
            sent = True
        finally:
            settle(sent)

    async def respond(request: Request) -> None:
        await send(*await answer(request), written())

    async def later(job: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(job)  # before any wait, which could cancel it unstarted
        for tasks in (waiting, _in_all):
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if len(waiting) >= MAX_WAITING or len(_in_all) >= MAX_WAITING_IN_ALL:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    try:
        # Cheaper than gRPC's iterator over requests.
        while (request := await context.read()) is not grpc.aio.EOF:
            if waits(request):
                await later(respond(request))
                continue
            response, settle = await answer(request)
            if kept := written():
                await later(send(response, settle, kept))
            else:
                await send(response, settle, None)
        if waiting:
            await asyncio.gather(*waiting)
    finally:
        await asyncio.sleep(0)  # a task that has not begun could not settle its answer
        for task in waiting:
            task.cancel()
