"""Routes that accept any Expect header before a request's body.

aiohttp's own handling of Expect fails on bytes that are not text, on any path, including paths
that are not served.
"""

from collections.abc import Iterable
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler

from eldr_vllm.proxy.errors import ProxyError

REST = "/{rest:.*}"


def add_routes(app: web.Application, routes: Iterable[tuple[str, str, Handler]]) -> None:
    """Serve these methods and paths, and no others."""
    add = partial(app.router.add_route, expect_handler=_expect)
    methods: dict[str, list[str]] = {}
    for method, path, handler in routes:
        add(method, path, handler)
        methods.setdefault(path, []).append(method)

    async def serve_nothing(request: web.Request) -> web.StreamResponse:
        if allowed := methods.get(request.path):
            raise web.HTTPMethodNotAllowed(request.method, allowed)
        raise web.HTTPNotFound

    add("*", REST, serve_nothing)


async def _expect(request: web.Request) -> web.Response | None:
    expected = request.headers["Expect"]
    if expected.lower() != "100-continue":
        told = f"Expect: expected 100-continue, found {expected!a:.60}"
        return ProxyError(417, told, "invalid_request_error").response(request.path)
    if request.transport and request.version >= (1, 1):
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return None
