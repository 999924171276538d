"""What can go wrong with an engine, and what a caller is told, in the shape of its endpoint."""

import json
import logging
import math

from aiohttp import web
from aiohttp.typedefs import Handler

from eldr_vllm.proxy.headers import REQUEST_NAME, request_name

logger = logging.getLogger("eldr_proxy")


class ProxyError(Exception):
    """An answer other than the one that was asked for.

    `body` is what an engine said, which goes back as it is; without it the error is put into words
    here.
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
        """The error as OpenAI's interface has it."""
        if self.said is not None:
            return self.said
        error = {"message": str(self), "type": self.kind, "param": None, "code": self.status}
        return json.dumps({"error": error}).encode()

    def response(self, path: str = "") -> web.Response:
        """The error as a whole answer."""
        body = self.body
        if self.said is None and path.startswith("/v1/messages"):
            body = json.dumps(self.as_anthropics()).encode()
        return web.Response(
            status=self.status, body=body, headers=self.headers, content_type="application/json"
        )

    def as_anthropics(self) -> dict[str, object]:
        """The error as /v1/messages has it."""
        return {"type": "error", "error": {"type": self.kind, "message": str(self)}}


class EngineFailed(Exception):  # noqa: N818 - a fact about an engine, not about this program
    """The engine did not do it; another one may."""


class EngineErred(EngineFailed):
    """It answered that it could not. With remote KV, the fault may be that of the KV's engine."""


class EngineBusy(EngineFailed):
    """It has no room or no time now, and is none the worse for that.

    `refusal` is what the caller is told where no other engine takes the request.
    """

    def __init__(self, message: str, refusal: ProxyError) -> None:
        super().__init__(message)
        self.refusal = refusal


def bad_request(message: str) -> ProxyError:
    """The request is wrong by itself."""
    return ProxyError(400, message, "invalid_request_error")


def no_worker(message: str) -> ProxyError:
    """No engine can serve this now."""
    return ProxyError(503, message, "service_unavailable", retry_after=1)


def fault() -> ProxyError:
    """For an unforeseen exception: it is logged, with its traceback."""
    logger.exception("a fault of the proxy itself")
    return ProxyError(500, "a fault of the proxy; its log says more")


@web.middleware
async def in_words(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as answers, those of aiohttp (no such page, too large a body) among them."""
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
