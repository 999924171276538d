import asyncio

import aiohttp
import pytest
from aiohttp import web

from eldr_service.server.observability.gauges import RouterState
from eldr_service.server.observability.http import HttpServer
from eldr_service.server.observability.metrics import Metrics


@pytest.fixture
async def served():
    health = {"healthy": True}
    server = HttpServer(Metrics(RouterState), lambda: health["healthy"])
    port = await server.start("127.0.0.1", 0)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield session, health
    await server.stop()
    await server.stop()


async def test_metrics_in_the_format_that_is_asked_for(served):
    session, _ = served
    async with session.get("/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        assert "eldr_signatures_held 0.0" in await answer.text()
    wanted = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with session.get("/metrics", headers=wanted) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        assert (await answer.text()).endswith("# EOF\n")


async def test_health_follows_the_daemon(served):
    session, health = served
    async with session.get("/healthz") as answer:
        assert (answer.status, await answer.text()) == (200, "ok\n")
    health["healthy"] = False
    async with session.get("/healthz") as answer:
        assert (answer.status, await answer.text()) == (503, "unavailable\n")


async def test_other_paths():
    async def answer(request):
        return web.Response(text="here")

    server = HttpServer(Metrics(RouterState), lambda: True, paths=[("GET", "/more", answer)])
    port = await server.start("127.0.0.1", 0)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        for path, status in {"/more": 200, "/metrics": 200, "/": 404, "/nothing": 404}.items():
            async with session.get(path) as answer:
                assert answer.status == status
    await server.stop()


async def test_a_port_in_use_is_an_error():
    metrics = Metrics(RouterState)
    first, second = (HttpServer(metrics, lambda: True) for _ in range(2))
    port = await first.start("127.0.0.1", 0)
    with pytest.raises(OSError, match=str(port)):
        await second.start("127.0.0.1", port)
    await first.stop()
    await second.stop()


@pytest.mark.parametrize(("path", "status"), [("/metrics", 200), ("/nothing", 404)])
async def test_no_expectation_fails(served, path, status, caplog):
    session, _ = served
    reader, writer = await asyncio.open_connection("127.0.0.1", session._base_url.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nExpect: \xff\r\n\r\n".encode("latin-1"))
    assert f" {status} ".encode() in await reader.readline()
    writer.write(b"no HTTP at all\0\r\n\r\n")
    await reader.read()
    writer.close()
    assert caplog.records == []
