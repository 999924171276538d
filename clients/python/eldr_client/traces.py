"""OpenTelemetry spans: the only module that imports its packages, which are optional.

OpenTelemetry's own variables turn it on: OTEL_TRACES_EXPORTER, or the endpoint of an OTLP receiver.
A bounded queue separates spans from their receiver, so that one which is slow or away loses spans
but delays no request.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import entry_points, version
from typing import Any, Literal

Value = str | bool | int | float
Kind = Literal["internal", "server", "client"]

# Seconds that closing waits for the receiver.
FAREWELL = 2.0
MAX_TEXT = 512  # characters of an attribute, which a caller may control
MAX_TRACESTATE = 512  # characters; W3C requires no more
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_OTLP = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
_NEEDED = "pip install opentelemetry-sdk opentelemetry-exporter-otlp"


class Span:
    """A span that is not recorded: its methods do nothing."""

    is_recording = False

    def say(self, attributes: Mapping[str, Value | None]) -> None:
        """Add attributes; None and empty texts are left out."""

    def happened(self, event: str) -> None:
        """Record an event that happens now."""

    def failed(self, kind: str, *, by_caller: bool = False) -> None:
        """Record a failure by a kind that quotes no text of others; the first one counts.

        A server's refusal that is the caller's fault (`by_caller`) is not an error of its span.
        """


class Traces:
    """No spans, at no cost: the `Traces` used when they are off."""

    is_on = False

    def span(
        self,
        name: str,
        attributes: Mapping[str, Value | None] | None = None,
        *,
        kind: Kind = "internal",
        within: Mapping[str, str] | None = None,
    ) -> AbstractContextManager[Span]:
        """A span for a block; an exception that leaves the block marks it as failed.

        Its parent is the current span or, with `within` (the fields of a W3C Trace Context), the
        span named there; none if it names none.
        """
        return _NOTHING

    def context(self) -> dict[str, str]:
        """`traceparent`, and `tracestate` if there is any, of the current span."""
        return {}

    def close(self) -> None:
        """Flush pending spans, for at most two seconds."""


_UNRECORDED = Span()
_NOTHING = nullcontext(_UNRECORDED)


def begin(service: str, warn: Callable[[str], object]) -> Traces:
    """Start a program's traces if the environment asks for them.

    Parameters
    ----------
    service : str
        Service name, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES give another.
    warn : callable (text)
        Told why there are none although they were asked for.
    """
    names = _wanted(os.environ)
    if not names:
        return Traces()
    try:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporters = [_exporter(name) for name in names]
        named = Resource.create({"service.name": service, "service.version": _version()})
        provider = TracerProvider(
            resource=named.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        for exporter in exporters:
            provider.add_span_processor(BatchSpanProcessor(exporter()))
    except ModuleNotFoundError as error:
        warn(f"traces were asked for, but {error.name} is not installed: {_NEEDED}")
    except (LookupError, TypeError, ValueError) as error:
        warn(f"traces were asked for, but cannot be exported: {error}")
    else:
        return _Exported(provider)
    return Traces()


def _wanted(environ: Mapping[str, str]) -> list[str]:
    """Names of exporters; an endpoint alone implies OTLP."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    said = environ.get("OTEL_TRACES_EXPORTER", "")
    if not said.strip() and any(map(environ.get, _ENDPOINTS)):
        said = "otlp"
    names = [name.strip() for name in said.split(",") if name.strip()]
    return [] if "none" in names else names


def _exporter(name: str) -> Any:
    """The class of an exporter, from any installed package.

    Raises
    ------
    LookupError
        No package provides it.
    """
    entry = name
    if name == "otlp":
        protocol = next(filter(None, map(os.environ.get, _PROTOCOLS)), "grpc")
        if protocol not in _OTLP:
            raise LookupError(f"{_PROTOCOLS[1]}: expected {' or '.join(_OTLP)}, found {protocol}")
        entry = _OTLP[protocol]
    found = entry_points(group="opentelemetry_traces_exporter", name=entry)
    if not found:
        raise LookupError(f"OTEL_TRACES_EXPORTER: {name} is not installed; for otlp, {_NEEDED}")
    return next(iter(found)).load()


def _version() -> str:
    return version("eldr-client")


class _Recorded(Span):
    is_recording = True

    def __init__(self, span: Any, error: Any) -> None:
        self._span = span
        self._error = error
        self._has_failed = False

    def say(self, attributes: Mapping[str, Value | None]) -> None:
        self._span.set_attributes(_said(attributes))

    def happened(self, event: str) -> None:
        self._span.add_event(event)

    def failed(self, kind: str, *, by_caller: bool = False) -> None:
        if not self._has_failed:
            self._has_failed = True
            self._span.set_attribute("error.type", kind)
            if not by_caller:
                self._span.set_status(self._error)


class _Exported(Traces):
    """Spans of its own provider; the process's provider is the application's, and left alone."""

    is_on = True

    def __init__(self, provider: Any) -> None:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("eldr", _version())
        self._w3c = TraceContextTextMapPropagator()
        self._root = Context()
        self._kinds = {kind.name.lower(): kind for kind in SpanKind}
        self._error = StatusCode.ERROR

    @contextmanager
    def span(
        self,
        name: str,
        attributes: Mapping[str, Value | None] | None = None,
        *,
        kind: Kind = "internal",
        within: Mapping[str, str] | None = None,
    ) -> Iterator[Span]:
        with self._tracer.start_as_current_span(
            name,
            context=None if within is None else self._w3c.extract(_bounded(within), self._root),
            kind=self._kinds[kind],
            attributes=_said(attributes or {}),
            record_exception=False,  # its text may quote a prompt
            set_status_on_exception=False,
        ) as started:
            span = _Recorded(started, self._error) if started.is_recording() else _UNRECORDED
            try:
                yield span
            except BaseException as error:
                span.failed(type(error).__qualname__)
                raise

    def context(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        self._w3c.inject(fields)
        return fields

    def close(self) -> None:
        closing = threading.Thread(
            target=self._provider.shutdown, name="eldr-traces-close", daemon=True
        )
        closing.start()
        closing.join(FAREWELL)


def _said(attributes: Mapping[str, Value | None]) -> dict[str, Value]:
    return {
        name: value[:MAX_TEXT] if isinstance(value, str) else value
        for name, value in attributes.items()
        if value is not None and value != ""
    }


def _bounded(fields: Mapping[str, str]) -> dict[str, str]:
    """The two fields, without a tracestate longer than W3C requires to propagate."""
    parent, state = fields.get("traceparent", ""), fields.get("tracestate", "")
    kept = state if len(state) <= MAX_TRACESTATE else ""
    return {"traceparent": parent, "tracestate": kept}
