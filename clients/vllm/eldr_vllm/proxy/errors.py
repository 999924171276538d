"""Failures of engines, and error answers in the format of each endpoint."""

import json
import logging
import math

from aiohttp import web
from aiohttp.typedefs import Handler

from eldr_vllm.proxy.headers import REQUEST_NAME, request_name

logger = logging.getLogger("eldr_proxy")


class ProxyError(Exception):
    """An error answer.

    `body` is an engine's own error, passed back unchanged; without it the error is written here.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "server_error",
        *,
        retry_after: float | str | None = None,
        body: bytes | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.said = body
        self.headers = {}
        if retry_after is not None:
            seconds = retry_after if isinstance(retry_after, str) else math.ceil(retry_after)
            self.headers["Retry-After"] = str(seconds)

    @property
    def body(self) -> bytes:
        """The error in OpenAI's format."""
        if self.said is not None:
            return self.said
        error = {"message": str(self), "type": self.kind, "param": None, "code": self.status}
        return json.dumps({"error": error}).encode()

    def response(self, path: str = "") -> web.Response:
        """The error as a complete answer."""
        body = self.body
        if self.said is None and path.startswith("/v1/messages"):
            body = json.dumps(self.as_anthropics()).encode()
        return web.Response(
            status=self.status, body=body, headers=self.headers, content_type="application/json"
        )

    def as_anthropics(self) -> dict[str, object]:
        """The error in the format of /v1/messages."""
        return {"type": "error", "error": {"type": self.kind, "message": str(self)}}


class EngineFailed(Exception):  # noqa: N818 - a fact about an engine, not about this program
    """The engine failed; another one may succeed."""


class EngineErred(EngineFailed):
    """The engine answered with an error. With remote KV, the KV's engine may be at fault."""


class EngineBusy(EngineFailed):
    """The engine has no capacity now, which does not count against it.

    `refusal` is the caller's answer if no other engine takes the request.
    """

    def __init__(self, message: str, refusal: ProxyError) -> None:
        super().__init__(message)
        self.refusal = refusal


def bad_request(message: str) -> ProxyError:
    """The request is invalid by itself."""
    return ProxyError(400, message, "invalid_request_error")


def no_worker(message: str) -> ProxyError:
    """No engine can serve this now."""
    return ProxyError(503, message, "service_unavailable", retry_after=1)


def fault() -> ProxyError:
    """Log an unforeseen exception with its traceback; return the answer to it."""
    logger.exception("unexpected error in the proxy")
    return ProxyError(500, "unexpected error in the proxy; see its log")


@web.middleware
async def in_words(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn errors into answers, aiohttp's own (unknown path, body too large) included."""
    REQUEST_NAME.set(request_name(request.headers))
    try:
        return await handler(request)
    except ProxyError as error:
        return error.response(request.path)
    except web.HTTPException as error:
        kind = "not_found_error" if error.status == 404 else "invalid_request_error"
        return ProxyError(error.status, _words(error, request), kind).response(request.path)
    except Exception:  # noqa: BLE001 - `fault` logs it
        return fault().response(request.path)


def _words(error: web.HTTPException, request: web.Request) -> str:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return f"{request.path} takes {allowed}, not {request.method}"
    if error.status == 404:
        routes = request.app.router.routes()
        paths = {route.resource.canonical for route in routes if route.resource}
        served = sorted(path for path in paths if "{" not in path)
        return f"eldr-proxy does not serve {request.path}; it serves {', '.join(served)}"
    return error.reason
