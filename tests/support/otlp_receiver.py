"""An OTLP receiver over gRPC, in this process, that keeps the spans it gets."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


@dataclass(frozen=True, kw_only=True)
class Received:
    """One span, with the name of the program that sent it."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    is_error: bool
    seconds: float
    attributes: dict
    events: list[str] = field(default_factory=list)


class Receiver(service.TraceServiceServicer):
    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.endpoint = ""

    def Export(self, request, context):
        for of_resource in request.resource_spans:
            name = _values(of_resource.resource.attributes)["service.name"]
            for scope in of_resource.scope_spans:
                self.spans += [_received(name, span) for span in scope.spans]
        return pb.ExportTraceServiceResponse()

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that make a program send its spans here, soon."""
        return {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    def wait_for(
        self, holds: Callable[[list[Received]], bool], seconds: float = 20.0
    ) -> list[Received]:
        """The spans, once they are as they are to be."""
        deadline = time.monotonic() + seconds
        while not holds(list(self.spans)):
            assert time.monotonic() < deadline, [(s.service, s.name) for s in self.spans]
            time.sleep(0.05)
        return list(self.spans)


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(2))
    service.add_TraceServiceServicer_to_server(receiver, server)
    receiver.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(0).wait()


def _received(service: str, span: Span) -> Received:
    return Received(
        service=service,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        is_error=span.status.code == Status.STATUS_CODE_ERROR,
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        attributes=_values(span.attributes),
        events=[event.name for event in span.events],
    )


def _values(attributes: list[KeyValue]) -> dict:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: AnyValue) -> object:
    return getattr(value, value.WhichOneof("value"))
