"""Requests that another scheduler has had prefilled."""

import asyncio
import base64
import uuid
from contextlib import asynccontextmanager

import pytest
from scripted_engine import MODEL, Rig, eventually, running_rig, text_of
from test_proxy_daemon import booked, counts_of, fit, routed_rig


async def prefill(rig: Rig, **body) -> dict:
    """The kv_transfer_params that another scheduler's prefill leaves behind."""
    body = {"model": MODEL, "prompt": "Hello", "max_tokens": 1, **body}
    body["kv_transfer_params"] = {"do_remote_decode": True, "do_remote_prefill": False}
    url, headers = rig.prefill[0].url + "/v1/completions", {"X-Request-Id": "theirs"}
    async with rig.session.post(url, json=body, headers=headers) as answer:
        return (await answer.json())["kv_transfer_params"]


def shim(half: int) -> dict:
    """What the shim says of a prompt that used one half of the experts."""
    name = f"cmpl-{uuid.uuid4()}-0"
    counts = base64.b64encode(counts_of(half).to_proto().SerializeToString()).decode()
    return {"model": MODEL, "request_id": name, "epoch": 0, "counts": counts, "placement": None}


def text(answer: dict) -> str:
    return answer["choices"][0]["text"]


@asynccontextmanager
async def front(daemon, **settings):
    async with routed_rig(daemon, accept_prefilled=True, **settings) as rig:
        yield rig


@pytest.mark.parametrize("stream", [False, True])
async def test_it_decodes_where_its_experts_are_and_fetches_the_kv(shared_daemon, stream):
    async with front(shared_daemon, decodes=4) as rig:
        fit(shared_daemon)
        chosen = []
        for half in (0, 1, 0, 1):
            rig.prefill[0].eldr = shim(half)
            before = [len(engine.decodes) for engine in rig.decode]
            answer, said = await rig.post(kv_transfer_params=await prefill(rig), stream=stream)
            assert answer.status == 200
            assert " w" in said if stream else text(said) == "".join(text_of("Hello", 5))
            [engine] = [e for e, n in zip(rig.decode, before, strict=True) if len(e.decodes) > n]
            identity = engine.decodes[-1]["kv_transfer_params"]["eldr"]
            assert identity["request_id"] == rig.prefill[0].eldr["request_id"]
            assert identity["lease_id"]
            chosen.append(engine)
            assert not rig.pinned
        assert chosen[0] is not chosen[1]
        assert len(rig.prefill[0].bodies) == 4  # the proxy has asked for none itself
        await eventually(lambda: not booked(shared_daemon))


async def test_one_that_is_sent_again_and_again_is_placed_by_its_experts_each_time(shared_daemon):
    async with front(shared_daemon, decodes=4) as rig:
        fit(shared_daemon)
        rig.prefill[0].eldr = shim(0)
        params = await prefill(rig)
        for _ in range(5):
            answer, _ = await rig.post(kv_transfer_params=params)
            assert answer.status == 200
        served = [body for engine in rig.decode for body in engine.decodes]
        identities = [body["kv_transfer_params"]["eldr"] for body in served]
        assert sorted(each["attempt"] for each in identities) == [0, 1, 2, 3, 4]
        assert sum(bool(engine.decodes) for engine in rig.decode) <= 2  # those of its slot
        await eventually(lambda: not booked(shared_daemon))


async def test_an_engine_that_is_gone_is_passed_over_with_the_same_kv():
    async with running_rig(decodes=2, accept_prefilled=True) as rig:
        await rig.stop(rig.decode[0])
        for _ in range(2):
            answer, said = await rig.post(kv_transfer_params=await prefill(rig))
            assert (answer.status, text(said)) == (200, "".join(text_of("Hello", 5)))
        assert not rig.pinned
        assert len(rig.prefill[0].bodies) == 2


async def test_after_kv_that_was_of_no_use_another_engine_serves_the_whole():
    async with running_rig(decodes=2, accept_prefilled=True) as rig:
        for engine in rig.decode:
            engine.unreachable.add(rig.prefill[0].url)
        answer, said = await rig.post(kv_transfer_params=await prefill(rig))
        assert (answer.status, text(said)) == (200, "".join(text_of("Hello", 5)))
        last = [engine.decodes[-1] for engine in rig.decode if engine.decodes][-1]
        assert any("kv_transfer_params" not in body for e in rig.decode for body in e.decodes), last


@pytest.mark.parametrize("body", [{"n": 2}, {"prompt_logprobs": 1}, {"prompt": ["a", "b"]}])
async def test_what_cannot_go_on_from_the_kv_is_served_whole_and_the_kv_freed(body):
    async with running_rig(accept_prefilled=True) as rig:
        answer, _ = await rig.post(kv_transfer_params=await prefill(rig), **body)
        assert answer.status == 200
        [served] = [each for engine in rig.decode for each in engine.decodes]
        assert "kv_transfer_params" not in served
        await eventually(lambda: not rig.pinned)


async def test_only_where_it_is_said_is_a_callers_kv_believed():
    async with running_rig() as rig:
        theirs = {"do_remote_prefill": True, "remote_request_id": "theirs"}
        answer, _ = await rig.post(kv_transfer_params=theirs)
        assert answer.status == 200
        assert len(rig.prefill[0].bodies) == 1
        [served] = [each for engine in rig.decode for each in engine.decodes]
        assert served["kv_transfer_params"]["remote_request_id"] != "theirs"


@pytest.mark.parametrize("said", [None, 7, [], {}, {"do_remote_prefill": "yes"}])
async def test_what_names_no_prefill_is_prefilled(said):
    async with running_rig(accept_prefilled=True) as rig:
        answer, _ = await rig.post(kv_transfer_params=said)
        assert answer.status == 200
        assert len(rig.prefill[0].bodies) == 1


@pytest.mark.parametrize("eldr", [7, {"request_id": 7}, {"request_id": "", "counts": "?"}])
async def test_nonsense_of_the_shims_part_changes_nothing(shared_daemon, eldr):
    async with front(shared_daemon) as rig:
        params = {**await prefill(rig), "eldr": eldr}
        answer, said = await rig.post(kv_transfer_params=params)
        assert (answer.status, text(said)) == (200, "".join(text_of("Hello", 5)))
        assert not rig.pinned
        await eventually(lambda: not booked(shared_daemon))


async def test_without_prefill_engines_it_is_healthy_and_serves_what_was_not_prefilled():
    async with running_rig(prefill=(), router="127.0.0.1:1", accept_prefilled=True) as rig:
        async with rig.session.get(rig.url + "/health") as answer:
            assert answer.status == 200
        answer, said = await rig.post()
        assert (answer.status, text(said)) == (200, "".join(text_of("Hello", 5)))


async def test_a_client_that_goes_ends_the_booking(shared_daemon):
    async with front(shared_daemon) as rig:
        rig.prefill[0].eldr = shim(0)
        params = await prefill(rig)
        for engine in rig.decode:
            engine.gate = asyncio.Event()
        asking = asyncio.create_task(rig.post(kv_transfer_params=params))
        await eventually(lambda: booked(shared_daemon) == 1)
        asking.cancel()
        await eventually(lambda: not booked(shared_daemon))
