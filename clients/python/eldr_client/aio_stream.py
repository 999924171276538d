"""One StreamSignatures call that carries the messages of many requests, for asyncio."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
from eldr.v1.router_pb2 import StreamSignaturesRequest, StreamSignaturesResponse

from eldr_client.stream import BrokenError


class SignatureStream:
    """`eldr_client.stream.SignatureStream` for one event loop.

    Parameters
    ----------
    begin : callable
        Starts the call, which has `write` and `read`.
    """

    def __init__(self, begin: Callable[[], Any]) -> None:
        self._begin = begin
        self._turn = asyncio.Lock()
        self._call: Any = None

    async def exchange(
        self, request: StreamSignaturesRequest, timeout: float
    ) -> StreamSignaturesResponse:
        """Send `request` and return its answer.

        Raises
        ------
        grpc.RpcError
            DEADLINE_EXCEEDED after `timeout` seconds, or the error that ended the stream.
        """
        try:
            async with asyncio.timeout(timeout), self._turn:
                return await self._exchange(request)
        except TimeoutError:
            raise BrokenError(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer in {timeout:.3g} s"
            ) from None

    def close(self) -> None:
        """End the call."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    async def _exchange(self, request: StreamSignaturesRequest) -> StreamSignaturesResponse:
        if self._call is None or self._call.done():  # it broke while idle
            self._call = self._begin()
        try:
            await self._call.write(request)
            answer = await self._call.read()
        except BaseException:
            self.close()  # a late answer would be mistaken for the next message's
            raise
        if answer is grpc.aio.EOF:
            code, details = await self._call.code(), await self._call.details()
            self.close()
            if code is grpc.StatusCode.OK:
                code, details = grpc.StatusCode.UNAVAILABLE, "the router ended the stream"
            raise BrokenError(code, details)
        received: StreamSignaturesResponse = answer
        return received
