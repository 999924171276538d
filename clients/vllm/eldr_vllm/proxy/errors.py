"""What a caller is told, in OpenAI's shape."""

import json
import math

from aiohttp import web
from aiohttp.typedefs import Handler


class ProxyError(Exception):
    """An answer other than the one that was asked for."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "server_error",
        *,
        retry_after: float | None = None,
        body: bytes | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = (
            body
            or json.dumps(
                {"error": {"message": message, "type": kind, "param": None, "code": status}}
            ).encode()
        )
        self.headers = {}
        if retry_after is not None:
            self.headers["Retry-After"] = str(math.ceil(retry_after))

    def response(self) -> web.Response:
        """The error as a whole answer."""
        return web.Response(
            status=self.status,
            body=self.body,
            headers=self.headers,
            content_type="application/json",
        )


def bad_request(message: str) -> ProxyError:
    """The request is wrong by itself."""
    return ProxyError(400, message, "invalid_request_error")


def no_worker(message: str) -> ProxyError:
    """Nobody can serve this now."""
    return ProxyError(503, message, "service_unavailable", retry_after=1)


@web.middleware
async def in_openais_shape(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as answers, those of aiohttp (no such page, too large a body) among them."""
    try:
        return await handler(request)
    except ProxyError as error:
        return error.response()
    except web.HTTPException as error:
        return ProxyError(error.status, error.reason, "invalid_request_error").response()
