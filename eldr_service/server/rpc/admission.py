"""Limits calls in progress, per caller and model: no flood takes the room of others."""

import functools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from eldr_service.core.errors import EldrError, ResourceExhaustedError
from eldr_service.core.words import counted
from eldr_service.server.rpc.caller import ANYONE, CALLER
from eldr_service.server.rpc.errors import abort

# Calls that end or correct load, and an operator's, are always admitted.
ADMITTED = frozenset(
    {"Route", "RegisterSignature", "Explain", "StreamSignatures", "RouteStream", "WatchWorkers"}
)
RETRY_AFTER_SECONDS = 0.5

Key = tuple[str, str]
"""A caller and a model; the model is empty if unknown."""


class Admission:
    """Counts the calls and streams in progress by caller and model.

    At the limit, callers with their share or more of it are refused. Others are still admitted, so
    that there are never more than twice as many.

    Parameters
    ----------
    most : int
    knows : callable (model) -> bool
        Known models have a share of their own; made-up names have none.
    refused : callable (full method name, error)
        Told of each refusal.
    """

    def __init__(
        self,
        most: int,
        knows: Callable[[str], bool],
        refused: Callable[[str, EldrError], None] = lambda *_: None,
    ) -> None:
        self._most = most
        self._knows = knows
        self._refused = refused
        self._of: Counter[Key] = Counter()
        self._count = 0

    def guarding(self, method: str, handler: grpc.RpcMethodHandler) -> Any:
        """Return a handler like this one that is called only for admitted calls."""
        if method.rpartition("/")[2] not in ADMITTED:
            return handler
        if handler.unary_stream:
            return handler._replace(unary_stream=self._answers(method, handler.unary_stream))
        kind = "stream_stream" if handler.stream_stream else "unary_unary"
        serve = getattr(handler, kind)

        @functools.wraps(serve)
        async def admit(request: Any, context: grpc.aio.ServicerContext) -> Any:
            try:
                with self._place(method, request, context):
                    return await serve(request, context)
            except TooManyCallsError as full:
                await abort(context, full)

        return handler._replace(**{kind: admit})

    def _answers(self, method: str, serve: Callable[[Any, Any], AsyncIterator[Any]]) -> Any:
        async def admit(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            try:
                with self._place(method, request, context):
                    async for answer in serve(request, context):
                        yield answer
            except TooManyCallsError as full:
                await abort(context, full)

        return admit

    @contextmanager
    def _place(
        self, method: str, request: Any, context: grpc.aio.ServicerContext
    ) -> Iterator[None]:
        key = _caller(context), self._model(request)
        if self._count >= self._most:
            self._check_share(method, key)
        self._of[key] += 1
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            self._of[key] -= 1
            if not self._of[key]:
                del self._of[key]

    def _check_share(self, method: str, key: Key) -> None:
        share = self._most / (len(self._of) + (key not in self._of))
        if self._of[key] < share:
            return
        error = TooManyCallsError(
            f"{counted(self._count, 'call')} in progress, {self._of[key]} of them of this caller"
            f" and model; at most {self._most} are allowed",
            RETRY_AFTER_SECONDS,
        )
        self._refused(method, error)
        raise error

    def _model(self, request: Any) -> str:
        name = getattr(request, "model", "")
        return name if name and self._knows(name) else ""


class TooManyCallsError(ResourceExhaustedError):
    """Too many calls are in progress."""


def _caller(context: grpc.aio.ServicerContext) -> str:
    """The token's name, or without tokens the peer's address without its port."""
    caller = CALLER.get()
    return caller.name if caller is not ANYONE else context.peer().rpartition(":")[0]
