"""Engines that fail: who takes over, what the caller is told, and whose KV is freed."""

import asyncio
import itertools
import json

import pytest
from scripted_engine import MODEL, Engine, eventually, running_rig, text_of

TEXT = "".join(text_of("Hello", 5))


def written(stream: str) -> str:
    events = [json.loads(e[6:]) for e in stream.split("\n\n")[:-2]]
    return "".join(choice["text"] for event in events for choice in event["choices"])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_decode_engine_that_is_down(stream):
    """The connection is refused, so the KV is where it was: an alternate fetches it."""
    async with running_rig() as rig:
        await rig.stop(rig.decode[0])
        answer, _ = await rig.post(stream=stream)
        assert answer.status == 200
        assert len(rig.prefill[0].bodies) == 1
        assert not rig.pinned
        assert await rig.metric('eldr_proxy_retries_total{role="decode"}') == 1


@pytest.mark.parametrize(
    ("fault", "stream"),
    [*itertools.product([500, 503, 429, "drop"], [False, True]), ("error-event", True)],
)
async def test_a_decode_engine_that_fails_before_its_first_token(stream, fault):
    """Its blocks may be gone, so there is a second prefill, and the first one's KV is discarded."""
    async with running_rig() as rig:
        rig.decode[0].fault = fault
        answer, body = await rig.post(stream=stream)
        assert answer.status == 200
        assert (written(body) if stream else body["choices"][0]["text"]) == TEXT
        epochs = [b["kv_transfer_params"]["eldr"]["epoch"] for b in rig.prefill[0].bodies]
        assert epochs == [0, 1]
        (failed,), (retried,) = rig.decode[0].decodes, rig.decode[1].decodes
        first, second = (b["kv_transfer_params"]["eldr"] for b in (failed, retried))
        assert first["request_id"] == second["request_id"]
        assert (first["attempt"], second["attempt"]) == (0, 1)
        await eventually(lambda: not rig.pinned)


@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_an_engine_that_has_failed_is_left_alone(role):
    async with running_rig(prefills=2, decodes=2) as rig:
        await rig.stop(getattr(rig, role)[0])
        for number in range(20):  # which engine a prompt is sent to first is chance
            assert (await rig.post(prompt=str(number)))[0].status == 200
        assert await rig.metric(f'eldr_proxy_retries_total{{role="{role}"}}') == 1


@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_the_only_engine_is_asked_again_at_once(role):
    async with running_rig(decodes=1) as rig:
        (engine,) = getattr(rig, role)
        engine.fault = 500
        assert (await rig.post())[0].status == 502
        engine.fault = None
        assert (await rig.post())[0].status == 200


async def test_nobody_can_decode():
    async with running_rig() as rig:
        for engine in rig.decode:
            engine.fault = 500
        answer, body = await rig.post()
        assert (answer.status, body["error"]["code"]) == (502, 502)
        assert sum(len(engine.decodes) for engine in rig.decode) == 3
        await eventually(lambda: not rig.pinned)


async def test_a_decode_engine_that_fails_once_and_is_the_only_one():
    async with running_rig(decodes=1) as rig:
        rig.decode[0].fault, rig.decode[0].faults_left = 500, 1
        answer, _ = await rig.post()
        assert answer.status == 200


async def test_a_decode_that_breaks_off():
    """The caller has seen tokens: it learns that there will be no more, and nothing is repeated."""
    async with running_rig() as rig:
        for engine in rig.decode:
            engine.fault, engine.pause = "break", 0.01
        answer, stream = await rig.post(stream=True)
        assert answer.status == 200
        *_, error, done, _ = stream.split("\n\n")
        assert json.loads(error[6:])["error"]["code"] == 502
        assert done == "data: [DONE]"
        assert sum(len(engine.decodes) for engine in rig.decode) == 1


@pytest.mark.parametrize("fault", [500, "drop", "down"])
async def test_a_prefill_engine_that_fails(fault):
    async with running_rig(prefills=3) as rig:
        for engine in rig.prefill[:2]:
            if fault == "down":
                await rig.stop(engine)
            else:
                engine.fault = fault
        for number in range(6):
            answer, _ = await rig.post(prompt=f"{number}")
            assert answer.status == 200
        assert len(rig.prefill[2].bodies) == 6


async def test_nobody_can_prefill():
    async with running_rig() as rig:
        rig.prefill[0].fault = 500
        answer, body = await rig.post()
        assert (answer.status, body["error"]["type"]) == (502, "server_error")
        assert not rig.decode[0].bodies + rig.decode[1].bodies


async def test_equal_prefixes_share_a_prefill_engine_until_it_is_busy():
    async with running_rig(prefills=4) as rig:
        for number in range(8):
            await rig.post(prompt="The same long beginning. " * 40 + str(number))
        assert sorted(len(engine.bodies) for engine in rig.prefill) == [0, 0, 0, 8]
        for engine in rig.prefill:
            engine.pause = 0.1
        await asyncio.gather(*(rig.post(prompt="x") for _ in range(16)))
        busiest = max(len(engine.bodies) for engine in rig.prefill)
        assert busiest <= 8 + 5  # 1.25 times the mean of four
        for engine in rig.prefill:
            engine.pause = 0
        for number in range(120):
            await rig.post(prompt=f"{number} of many")
        assert min(len(engine.bodies) for engine in rig.prefill) >= 5


async def test_a_redirect_is_not_followed():
    async with running_rig() as rig:
        strange = Engine(set())
        for engine in rig.decode:
            engine.fault = 307
        answer, _ = await rig.post()
        assert answer.status == 502
        assert not strange.bodies
        assert all(body["model"] == MODEL for body in rig.prefill[0].bodies)
