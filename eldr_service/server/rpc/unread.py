"""Ends streams whose answers are not read: a peer holds at most one window of them."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc

from eldr_service.core.errors import ResourceExhaustedError
from eldr_service.server.rpc.errors import abort

PATIENCE_SECONDS = 20.0
# A status follows the answers: a peer that starts reading by then gets it, others a reset.
STATUS_SECONDS = 10.0
LOOKS = 4

Write = Callable[[Any], Awaitable[None]]


@asynccontextmanager
async def while_read(context: grpc.aio.ServicerContext) -> AsyncIterator[Write]:
    """Yield the function that writes answers; block and stream end if none is read for 20 s."""
    loop = asyncio.get_running_loop()
    since = math.inf
    timer: asyncio.TimerHandle

    async def write(response: Any) -> None:
        nonlocal since
        since = loop.time()
        await context.write(response)  # gRPC returns when the transport has taken it
        since = math.inf

    def look() -> None:
        nonlocal timer
        if loop.time() - since > PATIENCE_SECONDS:
            patience.reschedule(loop.time())
        else:  # far cheaper than a timer per answer
            timer = loop.call_later(PATIENCE_SECONDS / LOOKS, look)

    timer = loop.call_later(PATIENCE_SECONDS / LOOKS, look)
    try:
        async with asyncio.timeout(None) as patience:
            yield write
    except TimeoutError:
        if not patience.expired():
            raise
        await _end(context)
    finally:
        timer.cancel()


async def _end(context: grpc.aio.ServicerContext) -> None:
    error = ResourceExhaustedError(
        f"answers have not been read for {PATIENCE_SECONDS:g} s, so the stream ends", 1.0
    )
    try:
        async with asyncio.timeout(STATUS_SECONDS):
            await abort(context, error)
    except TimeoutError:
        raise asyncio.CancelledError from None  # ends the stream without a status


def ending_unread(handler: grpc.RpcMethodHandler) -> Any:
    """Return a handler like this one that ends if its answers are not read.

    Handlers of the two bidirectional streams use `while_read` themselves.
    """
    if not handler.unary_stream:
        return handler
    answers = handler.unary_stream

    async def serve(request: Any, context: grpc.aio.ServicerContext) -> None:
        async with while_read(context) as write, aclosing(answers(request, context)) as each:
            async for answer in each:
                await write(answer)

    return handler._replace(unary_stream=serve)
