"""`eldr doctor --proxy`: what it says of a real proxy on real sockets, with the real daemon."""

import asyncio
import json
import signal
import socket
from importlib.metadata import version

from another_version import another_version
from daemon import running_daemon
from scripted_engine import MODEL, running_rig
from test_proxy_daemon import fit, health, register, routed_rig
from traced_proxy import running_proxy
from typer.testing import CliRunner
from wire import Client

from eldr_service.cli.app import app


async def examined(daemon, *proxies, code=None, watch=0.0):
    """The checks of the proxies, by name; the last proxy's where there are several.

    `code` is of all checks, those of the daemon and of what it remembers of other tests, too.
    """
    words = ["doctor", "--json", "--server", daemon.grpc, "--http", daemon.http]
    words += ["--watch", str(watch)]
    words += [word for url in proxies for word in ("--proxy", url)]
    result = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert code in (None, result.exit_code), result.output
    checks = json.loads(result.stdout)["checks"]
    return {each["check"]: each for each in checks if each["subject"] in proxies}


async def test_a_proxy_that_is_well(shared_daemon):
    async with routed_rig(shared_daemon) as rig:
        fit(shared_daemon)
        for _ in range(4):
            await rig.post()
        found = await examined(shared_daemon, rig.url, code=0)
        assert {each["outcome"] for each in found.values()} == {"ok"}, found
        assert found["fallbacks"]["words"] == "0% of 4 decodes since its start went without ELDR"
        watching = asyncio.create_task(examined(shared_daemon, rig.url, code=0, watch=2))
        while not watching.done():
            await rig.post()
            await asyncio.sleep(0.1)
        assert "decodes in the 2 s watched" in watching.result()["fallbacks"]["words"]
        assert version("eldr-vllm") in found["versions"]["words"]


async def test_a_proxy_that_places_without_the_daemon(shared_daemon):
    """It was told another address than the daemon's."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"127.0.0.1:{closed.getsockname()[1]}"
    async with running_rig(router=nowhere) as rig:
        for _ in range(4):
            assert (await rig.post())[0].status == 200
        found = await examined(shared_daemon, rig.url, code=1)
    assert found["serves"]["outcome"] == "ok"
    assert "does not reach the daemon" in found["router"]["words"]
    assert found["fallbacks"]["outcome"] == "fault"
    assert found["fallbacks"]["words"].startswith("100% of 4 decodes since its start")


async def test_a_daemon_that_was_away_for_a_moment():
    with running_daemon() as daemon:
        async with routed_rig(daemon) as rig:
            for _ in range(4):
                await rig.post()
            daemon.process.send_signal(signal.SIGSTOP)
            assert (await rig.post())[0].status == 200
            daemon.process.send_signal(signal.SIGCONT)
            async with asyncio.timeout(30):  # its client asks it again in a moment
                while (await health(rig))["router"] == "down":
                    await asyncio.sleep(0.1)
            found = (await examined(daemon, rig.url))["fallbacks"]
            assert found["outcome"] == "warning"
            assert found["words"] == "20% of 5 decodes since its start went without ELDR"
            assert "did the daemon take longer than eldr-proxy's --route-timeout" in found["fix"]
            watching = asyncio.create_task(examined(daemon, rig.url, watch=2))
            while not watching.done():
                await rig.post()
                await asyncio.sleep(0.1)
            assert watching.result()["fallbacks"]["outcome"] == "ok"


async def test_a_proxy_that_does_not_know_one_of_the_workers():
    """The daemon is well; the proxy cannot send a request where it is placed."""
    with running_daemon("--policy", "round-robin") as daemon, Client(daemon.grpc) as client:
        async with running_rig(router=daemon.grpc) as rig:
            register(daemon, rig)
            client.register(MODEL, "DECODE-2", geometry=None, url="http://127.0.0.1:9")
            for _ in range(6):
                assert (await rig.post())[0].status == 200
            found = await examined(daemon, rig.url)
    assert found["router"]["outcome"] == "ok"
    assert found["fallbacks"]["outcome"] == "warning"
    assert found["fallbacks"]["words"] == "33% of 6 decodes since its start went without ELDR"
    assert "eldr-proxy's log names workers it does not know" in found["fallbacks"]["fix"]


async def test_a_proxy_that_knows_no_engine(shared_daemon):
    async with running_rig(static=False, router=shared_daemon.grpc) as rig:
        found = await examined(shared_daemon, rig.url, code=1)
    assert found["serves"]["words"].endswith("it knows 0 prefill, 0 decode")


async def test_what_is_no_proxy(shared_daemon):
    found = await examined(shared_daemon, f"http://{shared_daemon.http}", code=1)
    assert "is not eldr-proxy" in found["serves"]["words"]
    found = await examined(shared_daemon, "http://127.0.0.1:1", code=1)
    assert found["serves"]["words"] == "nothing listens there"
    assert {found[name]["outcome"] for name in ("router", "fallbacks", "versions")} == {"unknown"}


async def test_a_proxy_that_asks_no_daemon(shared_daemon):
    async with running_rig(router=None) as rig:
        assert (await rig.post())[0].status == 200
        found = await examined(shared_daemon, rig.url)
    assert found["router"]["outcome"] == "warning"
    assert found["router"]["words"] == "it asks no daemon (--router none)"
    assert found["router"]["fix"] == f"eldr-proxy --router {shared_daemon.grpc}"
    assert (found["fallbacks"]["outcome"], found["fallbacks"]["words"]) == (
        "unknown",
        "it asks no daemon",
    )


async def test_a_proxy_of_another_version(shared_daemon, tmp_path):
    nobody = "http://127.0.0.1:9"
    flags = "--router", shared_daemon.grpc, "--prefill", nobody, "--decode", nobody
    with running_proxy(another_version("eldr-vllm", tmp_path), *flags) as url:
        found = await examined(shared_daemon, url, code=1)
    found = found["versions"]
    assert found["words"].startswith(f"eldr-proxy is 99.0.0 at {url}; this eldr is ")
    assert "docs/upgrade.md" in found["fix"]
