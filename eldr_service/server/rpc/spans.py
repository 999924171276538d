"""One span per call about a request, and per such message of a stream."""

import asyncio
import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import grpc
from eldr.v1 import router_pb2 as pb
from eldr_client import span_attributes
from eldr_client.placement import Placement
from eldr_client.traces import Span, Traces

from eldr_service.server.rpc.decoding import NOT_A_MESSAGE
from eldr_service.server.rpc.streams import Answer, Settle

Request = TypeVar("Request")
Response = TypeVar("Response")

_UNARY = frozenset({"RegisterSignature", "Route", "Release"})
_FIELDS = ("traceparent", "tracestate")
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
# OpenTelemetry's rule for servers: other codes are the caller's fault.
_OF_SERVER = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)


class CallSpans:
    """Wraps handlers, so that serving without spans costs nothing."""

    def __init__(self, traces: Traces) -> None:
        self._traces = traces

    def around(self, name: str, handler: grpc.RpcMethodHandler) -> Any:
        """Return a handler like that of /SERVICE/METHOD `name`, with a span for each call.

        The span's parent is in the call's metadata.
        """
        method = name.rpartition("/")[2]
        if method not in _UNARY:
            return handler
        serve = handler.unary_unary

        @functools.wraps(serve)
        async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
            within = _metadata(context)
            if not within and getattr(request, "dry_run", False):
                return await serve(request, context)  # mostly a client's health probe
            with self._span(method, request, within) as span:
                try:
                    response = await serve(request, context)
                except BaseException as error:
                    _say_code(span, _code(context, error))
                    raise
                _say_answer(span, request, response)
                return response

        return handler._replace(unary_unary=answer)

    def around_messages(
        self,
        method: str,
        context: grpc.aio.ServicerContext,
        answer: Answer[Request, Response],
    ) -> Answer[Request, Response]:
        """Return a function like this one for a stream, with a span for each message.

        The span's parent is in the message, else in the stream's metadata.
        """
        of_stream = _metadata(context)

        async def answer_one(request: Request) -> tuple[Response, Settle]:
            said = request.trace_context  # type: ignore[attr-defined]
            of_message = {name: getattr(said, name) for name in _FIELDS} if said.traceparent else {}
            with self._span(method, request, of_message or of_stream) as span:
                response, settle = await answer(request)
                _say_answer(span, request, response)
                return response, settle

        return answer_one

    def _span(
        self, method: str, request: Any, within: Mapping[str, str]
    ) -> AbstractContextManager[Span]:
        said = span_attributes.call(method)
        if request is not NOT_A_MESSAGE:
            attempt = getattr(request, "attempt", None)  # chunks have none
            said |= span_attributes.request(request.model, request.request_id, attempt)
        name = f"eldr.v1.RouterService/{method}"
        return self._traces.span(name, said, kind="server", within=within)


def _metadata(context: grpc.aio.ServicerContext) -> dict[str, str]:
    return {name: value for name, value in context.invocation_metadata() or () if name in _FIELDS}


def _say_answer(span: Span, request: Any, response: Any) -> None:
    if not span.is_recording:
        return
    match response:
        case pb.ReleaseResponse():
            outcome = pb.ReleaseOutcome.Name(request.outcome).removeprefix("RELEASE_OUTCOME_")
            result = pb.ReleaseResult.Name(response.result).removeprefix("RELEASE_RESULT_")
            span.say({"eldr.outcome": outcome, "eldr.release_result": result})
        case pb.RegisterSignatureResponse():
            span.say({"eldr.complete": response.complete})
        case _ if response.HasField("placement"):
            span.say(span_attributes.placement(Placement.from_proto(response.placement)))
        case pb.StreamSignaturesResponse() if response.HasField("acknowledgement"):
            span.say({"eldr.complete": response.acknowledgement.complete})
        case _:
            _say_code(span, _CODES.get(response.status.code, grpc.StatusCode.UNKNOWN))
            return
    _say_code(span, grpc.StatusCode.OK)


def _say_code(span: Span, code: grpc.StatusCode) -> None:
    span.say({"rpc.response.status_code": code.name})
    if code is not grpc.StatusCode.OK:
        span.failed(code.name, by_caller=code.name not in _OF_SERVER)


def _code(context: grpc.aio.ServicerContext, error: BaseException) -> grpc.StatusCode:
    """What a call ends with: set by `abort`, else gRPC will send UNKNOWN."""
    if isinstance(error, asyncio.CancelledError):
        return grpc.StatusCode.CANCELLED
    code = context.code()
    number = code.value[0] if isinstance(code, grpc.StatusCode) else code
    return _CODES.get(number or 2, grpc.StatusCode.UNKNOWN)
