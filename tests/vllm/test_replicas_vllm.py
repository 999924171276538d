"""Two real engines that prefill what they decode, with the daemon and the proxy before them."""

import asyncio
import contextlib
from urllib.request import urlopen

import pytest
from aiohttp import ClientSession
from eldr.v1.fleet_pb2 import CaptureState
from eldr_vllm.proxy.app import Proxy
from eldr_vllm.proxy.settings import Settings
from scripted_engine import serve

pytestmark = pytest.mark.vllm(engines=2)

MODEL = "tiny"


@pytest.fixture(scope="module")
def rig(model, tmp_path_factory):
    """Without `inner`: a replica transfers nothing."""
    from rig import Apart, Daemon, Engine

    folder = tmp_path_factory.mktemp("replicas")
    with contextlib.ExitStack() as ending:
        rig = Apart(folder, Daemon(folder))
        ending.callback(lambda: rig.daemon.kill())
        eldr = {"router": rig.daemon.target, "role": "replica", "timeout": 5.0}
        for name in ("first", "second"):
            engine = Engine(name, model, folder, "kv_both", eldr, inner={})
            ending.callback(engine.kill)
            rig.decodes.append(engine)
        for engine in rig.decodes:
            engine.wait()
        yield rig


def test_a_turn_is_placed_by_what_the_engine_counted_in_the_one_before(rig):
    from rig import ids, prompt, wait

    wait(lambda: {engine.url for engine in rig.decodes} <= rig.workers().keys(), 60)
    assert {worker.role for worker in rig.workers().values()} == {1}
    for worker in rig.workers().values():  # each has asked itself, and heard the same
        said = worker.capture.state, worker.capture.reason
        assert said == (CaptureState.CAPTURE_STATE_CAPTURING, "")
    tokens = prompt(3, 300)  # in two chunks
    sources = []
    with rig.client() as client:
        for name in ("first", "second"):
            placement = client.route(MODEL, name, session="s", prompt_tokens=len(tokens))
            sources.append(placement.signature_source.value)
            eldr = {"request_id": name, "attempt": 0, "lease_id": placement.lease_id}
            answer = rig.at(placement.url).complete(tokens, 12, {"eldr": eldr})
            assert not answer.get("kv_transfer_params")
            wait(lambda: not rig.booked(), 20)  # the engine has released it
            assert client.release(MODEL, name).value == "ALREADY_RELEASED"
            tokens = [*tokens, *ids(answer), *prompt(5, 20)]
    assert sources == ["UNSPECIFIED", "SESSION"]
    with urlopen(f"http://{rig.daemon.http}/metrics") as page:  # both prompts' whole signatures
        assert f'eldr_window_signatures{{model="{MODEL}"}} 2.0' in page.read().decode()


async def test_the_proxy_names_the_conversation(rig):
    settings = Settings(router=rig.daemon.target, without_prefill_workers=True, route_timeout=5.0)
    runner, url = await serve(Proxy(settings).app())
    try:
        async with ClientSession() as session:
            async with asyncio.timeout(20):  # until it has heard of the engines
                while (await session.get(url + "/health")).status != 200:
                    await asyncio.sleep(0.05)
            for stream in (False, True):
                body = {"model": MODEL, "prompt": "What a day", "max_tokens": 8, "stream": stream}
                headers = {"X-Session-Id": "by-proxy", "X-Tenant-Id": "acme"}
                async with session.post(
                    url + "/v1/completions", json=body, headers=headers
                ) as answer:
                    assert answer.status == 200, await answer.text()
                    await answer.read()
    finally:
        await runner.cleanup()
    with rig.client() as client:
        by_session = client.route(
            MODEL, "a", session="by-proxy", labels={"tenant": "acme"}, dry_run=True
        )
        by_tenant = client.route(MODEL, "b", labels={"tenant": "acme"}, dry_run=True)
    assert by_session.signature_source.value == "SESSION"
    assert by_tenant.signature_source.value == "TENANT"
