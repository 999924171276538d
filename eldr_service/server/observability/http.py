"""The HTTP port: metrics, health, and the page's paths."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client.exposition import choose_encoder

from eldr_service.server.observability.exposition import slices
from eldr_service.server.observability.metrics import Metrics

COMPRESSED_AT_ONCE = 16 << 10
"""Bytes compressed in one step, about half a millisecond."""
STOP_SECONDS = 1.0
"""How long answers in progress may continue when the server stops."""
Paths = Iterable[tuple[str, str, Callable[[web.Request], Awaitable[web.StreamResponse]]]]


def _of_ours(record: logging.LogRecord) -> bool:
    """Keep bytes that are not HTTP out of the log: anyone can send them, each with a traceback."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


async def _no_body_is_wanted(request: web.Request) -> None:
    """Accept any Expect header: no body is read here."""


class HttpServer:
    """Serves `/metrics`, `/healthz` and more in the running event loop.

    Parameters
    ----------
    metrics : Metrics
        What `/metrics` shows, in the format that the client asks for.
    healthy : callable
        Whether the daemon currently takes requests.
    troubles : callable
        What is wrong although it does, in words; empty for nothing.
    paths : iterable of (method, path, handler)
        Further paths to serve.
    """

    def __init__(
        self,
        metrics: Metrics,
        healthy: Callable[[], bool],
        troubles: Callable[[], str] = str,
        paths: Paths = (),
    ) -> None:
        self._troubles = troubles
        self._shown = metrics
        self._healthy = healthy
        self.app = web.Application()
        # aiohttp's own handling of Expect fails on bytes that are not text, on any path.
        add = partial(self.app.router.add_route, expect_handler=_no_body_is_wanted)
        add("GET", "/metrics", self._metrics)
        add("GET", "/healthz", self._health)
        for method, path, handler in paths:
            add(method, path, handler)
        add("*", "/{rest:.*}", self._nothing)
        logging.getLogger("aiohttp.server").addFilter(_of_ours)
        # Scrapes every few seconds need no log lines.
        self._runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=STOP_SECONDS)

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port, which is a free one if `port` is 0.

        Raises
        ------
        OSError
            The address cannot be used.
        """
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        bound: int = self._runner.addresses[0][1]
        return bound

    async def stop(self) -> None:
        """Stop listening, and finish pending answers. Twice is fine."""
        await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = bytearray()
        for part in slices(self._shown.parts(), encode):
            body += part
            await asyncio.sleep(0)
        # Compression takes longer than a step may, so it runs in slices.
        response = web.Response(
            body=bytes(body),
            headers={"Content-Type": content_type},
            zlib_executor_size=COMPRESSED_AT_ONCE,
        )
        response.enable_compression()
        return response

    async def _nothing(self, request: web.Request) -> web.Response:
        raise web.HTTPNotFound

    async def _health(self, request: web.Request) -> web.Response:
        if self._healthy():
            troubles = self._troubles()
            return web.Response(text=f"ok, but {troubles}\n" if troubles else "ok\n")
        return web.Response(text="unavailable\n", status=503)
