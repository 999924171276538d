"""Streams end when the token that opened them expires."""

import asyncio
import inspect
import time
from typing import Any

import grpc

from eldr_service.server.rpc.caller import Caller
from eldr_service.server.rpc.errors import UnauthenticatedError, abort

EXPIRED = "the token has expired"
MAX_SECONDS = 1e8  # three years; timers are limited


def ending_with(caller: Caller, handler: grpc.RpcMethodHandler | None) -> Any:
    """Return a handler like this one whose streams end with the caller's token.

    Unary calls are answered once begun.
    """
    if handler is None or not handler.response_streaming or caller.expires == float("inf"):
        return handler
    behavior = handler.stream_stream or handler.unary_stream
    generates = inspect.isasyncgenfunction(behavior)

    async def serve(requests: Any, context: grpc.aio.ServicerContext) -> None:
        try:
            async with asyncio.timeout(min(max(0.0, caller.expires - time.time()), MAX_SECONDS)):
                if generates:
                    async for response in behavior(requests, context):
                        await context.write(response)
                else:
                    await behavior(requests, context)
        except TimeoutError:
            await abort(context, UnauthenticatedError(EXPIRED))

    make = (
        grpc.stream_stream_rpc_method_handler
        if handler.request_streaming
        else grpc.unary_stream_rpc_method_handler
    )
    return make(serve, handler.request_deserializer, handler.response_serializer)
