"""Bytes that do not decode get INVALID_ARGUMENT, like other wrong input."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from eldr_service.core.errors import InvalidArgumentError
from eldr_service.server.rpc.errors import abort

Deserialize = Callable[[bytes], Any]


class NotAMessageError(InvalidArgumentError):
    """The bytes of a message cannot be decoded."""

    def __init__(self) -> None:
        super().__init__("message", "the method's request, encoded as protobuf", "other bytes")


NOT_A_MESSAGE = object()
"""Stands for the request of a unary call; `unary` refuses it. Each refusal is a new error:
an error raised repeatedly keeps the frames of every time."""


def refusing_garbage(handler: grpc.RpcMethodHandler) -> Any:
    """Return a handler like this one that detects undecodable messages.

    gRPC would otherwise end the call with a traceback in the log. A stream ends with the refusal,
    as an answer within it could not say which message it is for.
    """
    deserialize: Deserialize = handler.request_deserializer

    def decode(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return NOT_A_MESSAGE

    def decode_next(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            raise NotAMessageError from None

    if handler.stream_stream:
        return handler._replace(
            request_deserializer=decode_next, stream_stream=_ending(handler.stream_stream)
        )
    if handler.unary_stream:
        return handler._replace(
            request_deserializer=decode, unary_stream=_asking(handler.unary_stream)
        )
    return handler._replace(request_deserializer=decode)


def _ending(serve: Callable[[Any, Any], Awaitable[None]]) -> Callable[[Any, Any], Awaitable[None]]:
    async def serve_until_garbage(requests: Any, context: grpc.aio.ServicerContext) -> None:
        try:
            await serve(requests, context)
        except NotAMessageError as error:
            await abort(context, error)

    return serve_until_garbage


def _asking(serve: Callable[[Any, Any], AsyncIterator[Any]]) -> Callable[[Any, Any], Any]:
    async def serve_messages(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        if request is NOT_A_MESSAGE:
            await abort(context, NotAMessageError())
        async for response in serve(request, context):
            yield response

    return serve_messages
