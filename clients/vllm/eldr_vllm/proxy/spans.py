"""The attributes of the proxy's spans for requests and engine calls."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from aiohttp import web
from eldr_client import span_attributes
from eldr_client.span_attributes import Attributes

from eldr_vllm.proxy.fleet import Engine
from eldr_vllm.proxy.headers import forwarded
from eldr_vllm.proxy.legs import Leg

CONTEXT = ("traceparent", "tracestate")
FIRST_TOKEN = "eldr.first_token"
_OPERATIONS = {"/v1/completions": "text_completion"}


def context(request: web.Request) -> dict[str, str]:
    """The trace context of the caller."""
    return forwarded(request.headers, CONTEXT)


def without_context(headers: Mapping[str, str]) -> dict[str, str]:
    """A caller's headers for the engines, without its context if the proxy has its own span."""
    return {name: said for name, said in headers.items() if name.lower() not in CONTEXT}


def of_http(request: web.Request) -> Attributes:
    """A client's call."""
    return {
        "http.request.method": request.method,
        "http.route": request.path,
        "url.path": request.path,
        "url.scheme": request.scheme,
        "gen_ai.operation.name": _OPERATIONS.get(request.path, "chat"),
    }


def of_request(leg: Leg, model: str, request_id: str) -> Attributes:
    """What a request asks for, the same for each of its legs."""
    return {
        **span_attributes.request(model, request_id),
        "gen_ai.request.max_tokens": leg.output_limit or None,
        "gen_ai.request.stream": leg.is_stream,
    }


def of_engine(leg: Leg, model: str, engine: Engine) -> Attributes:
    """A leg's call to an engine."""
    address = urlsplit(engine.url)
    return {
        **span_attributes.request(model, leg.request_id),
        "eldr.worker_id": engine.worker_id,
        "http.request.method": "POST",
        "server.address": address.hostname,
        "server.port": address.port,
        "url.path": leg.asked.path,
    }
