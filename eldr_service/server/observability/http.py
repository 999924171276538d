"""The HTTP port: metrics, health and a page that leads to both."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

INDEX = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>ELDR</title>
<h1>ELDR</h1>
<p>Places prefilled requests on decode workers by the experts that they use.</p>
<ul>
<li><a href="/metrics">/metrics</a>: for Prometheus
<li><a href="/healthz">/healthz</a>: 200 while the daemon takes requests, else 503
</ul>
</html>
"""


class HttpServer:
    """Serves `/`, `/metrics` and `/healthz` in the running event loop.

    Parameters
    ----------
    registry : CollectorRegistry
        What `/metrics` shows, in the format that the reader asks for.
    healthy : callable
        Whether the daemon takes requests now.
    troubles : callable
        What is wrong although it does, in words; empty for nothing.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        healthy: Callable[[], bool],
        troubles: Callable[[], str] = str,
    ) -> None:
        self._troubles = troubles
        self._registry = registry
        self._healthy = healthy
        self.app = web.Application()
        self.app.router.add_get("/", self._index)
        self.app.router.add_get("/metrics", self._metrics)
        self.app.router.add_get("/healthz", self._health)
        # Scrapes every few seconds are nothing to log.
        self._runner = web.AppRunner(self.app, access_log=None)

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port: the one that was free where `port` is 0.

        Raises
        ------
        OSError
            When the address cannot be had.
        """
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        bound: int = self._runner.addresses[0][1]
        return bound

    async def stop(self) -> None:
        """Answer what has been asked, and stop listening. Twice is fine."""
        await self._runner.cleanup()

    async def _index(self, request: web.Request) -> web.Response:
        return web.Response(text=INDEX, content_type="text/html")

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        response = web.Response(body=encode(self._registry), headers={"Content-Type": content_type})
        response.enable_compression()
        return response

    async def _health(self, request: web.Request) -> web.Response:
        if self._healthy():
            troubles = self._troubles()
            return web.Response(text=f"ok, but {troubles}\n" if troubles else "ok\n")
        return web.Response(text="unavailable\n", status=503)
