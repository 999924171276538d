"""A decode engine that cannot fetch one engine's KV is told from one that is ill."""

import asyncio
import time

import pytest
from eldr_vllm.proxy.cooldown import CoolDown
from eldr_vllm.proxy.links import Links
from scripted_engine import Engine, Rig, eventually
from test_proxy_daemon import booked, register, routed_rig


def pairs(rig: Rig, decode: Engine) -> list[str]:
    """The prefill engines whose KV it was asked to fetch."""
    return [body["kv_transfer_params"]["remote_url"] for body in decode.decodes]


async def ask_many(rig: Rig, count: int, stream: bool) -> None:
    for number in range(count):
        answer, body = await rig.post(prompt=f"{number} of many", stream=stream)
        assert answer.status == 200
        assert "error" not in (body if stream else str(body))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("static", [False, True])
async def test_a_pair_that_cannot_is_left_alone(shared_daemon, static, stream):
    """As after a decode engine's restart, of which one prefill engine keeps a stale state."""
    async with routed_rig(shared_daemon, static=static, prefills=2, decodes=3) as rig:
        stale, fresh = rig.prefill
        restarted = rig.decode[0]
        restarted.unreachable.add(stale.url)
        await ask_many(rig, 40, stream)
        fetched = pairs(rig, restarted)
        assert fetched.count(stale.url) == 1  # and no more, for a while
        assert fetched.count(fresh.url) >= 5  # it is well
        assert stale.decodes  # as is that one
        assert sum(pairs(rig, other).count(stale.url) for other in rig.decode[1:]) >= 5
        await eventually(lambda: booked(shared_daemon) == 0)


async def test_a_decode_engine_that_is_ill_is_left_alone_by_all(shared_daemon):
    async with routed_rig(shared_daemon, static=True, prefills=3, decodes=3) as rig:
        ill = rig.decode[0]
        ill.unreachable.update(engine.url for engine in rig.prefill)
        await ask_many(rig, 40, stream=False)
        assert len(ill.decodes) == 2


async def test_a_prefill_engine_whose_kv_nobody_can_fetch(shared_daemon):
    async with routed_rig(shared_daemon, static=True, prefills=3, decodes=3) as rig:
        ill, *others = rig.prefill
        for engine in rig.decode:
            engine.unreachable.add(ill.url)
        await ask_many(rig, 40, stream=False)
        assert len(ill.bodies) == 2
        assert min(len(engine.bodies) for engine in others) > 5


def test_who_failed_with_two_has_failed():
    prefill, decode = CoolDown(), CoolDown()
    links = Links(prefill, decode)
    links.failed("p1", {"d1", "http://d1"})
    assert not prefill.worker_ids | decode.worker_ids
    assert links.decoders_to_avoid("p1") == {"d1", "http://d1"}
    assert links.decoders_to_avoid("p2") == set()
    links.failed("p2", ["d1"])
    assert decode.worker_ids == {"d1"}
    assert not prefill.worker_ids
    links.succeeded("p2", ["d1"])
    links.failed("p1", ["d2"])
    assert prefill.worker_ids == {"p1"}
    assert decode.worker_ids == {"d1"}


async def test_a_worker_that_registers_anew_has_failed_nobody(shared_daemon):
    """It may be asked at once, where the pause of its former life has not ended yet."""
    async with routed_rig(shared_daemon, decodes=2) as rig:
        rig.decode[0].fault, rig.decode[0].faults_left = "drop", 1
        for _ in range(6):
            assert (await rig.post())[0].status == 200
        assert len(rig.decode[0].decodes) == 1
        register(shared_daemon, rig)
        deadline = time.monotonic() + 2
        while len(rig.decode[0].decodes) == 1:
            assert (await rig.post())[0].status == 200
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("status", [408, 429])
@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_an_engine_that_is_busy_is_none_the_worse(shared_daemon, role, status):
    async with routed_rig(shared_daemon, static=True, prefills=2) as rig:
        busy = getattr(rig, role)[0]
        busy.fault = status
        prompts = (str(number) for number in range(100))  # each as likely to be either engine's
        while len(busy.bodies) < 2:  # it is asked again
            assert (await rig.post(prompt=next(prompts)))[0].status == 200
        for engine in getattr(rig, role):
            engine.fault = status
        answer, body = await rig.post()
        assert (answer.status, body["error"]["message"]) == (status, "broken")
        await eventually(lambda: booked(shared_daemon) == 0)


@pytest.mark.parametrize("status", [400, 401, 404, 422])
@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_an_engine_that_refuses_is_none_the_worse(shared_daemon, role, status):
    """It is the caller's fault, and passed on at once."""
    async with routed_rig(shared_daemon, static=True) as rig:
        for engine in getattr(rig, role):
            engine.fault = status
        for _ in range(4):
            answer, body = await rig.post()
            assert (answer.status, body["error"]["message"]) == (status, "broken")
        assert sum(len(engine.decodes) for engine in getattr(rig, role)) == 4
        assert await rig.metric(f'eldr_proxy_retries_total{{role="{role}"}}') == 0
        for engine in getattr(rig, role):
            engine.fault = None
        assert (await rig.post())[0].status == 200
        await eventually(lambda: booked(shared_daemon) == 0 and not rig.pinned)
