"""A client that goes, in each phase, leaves no booking, no running decode and no pinned KV."""

import asyncio

import pytest
from scripted_engine import MODEL, Engine, eventually
from test_proxy_daemon import booked, routed_rig


async def settled(daemon, rig) -> None:
    engines: list[Engine] = [*rig.prefill, *rig.decode]
    await eventually(lambda: not any(engine.running for engine in engines))
    await eventually(lambda: booked(daemon) == 0)
    await eventually(lambda: not rig.pinned)


def ask(rig, stream: bool, **options):
    body = {"model": MODEL, "prompt": "Hello", "max_tokens": 500, "stream": stream, **options}
    return rig.session.post(rig.url + "/v1/completions", json=body)


async def go_when(holds, asking: asyncio.Task) -> None:
    await eventually(holds)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def wait_for(context) -> None:
    async with context as answer:
        await answer.read()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
async def test_while_the_prefill_runs(shared_daemon, stream, n):
    async with routed_rig(shared_daemon) as rig:
        rig.prefill[0].gate = asyncio.Event()
        asking = asyncio.create_task(wait_for(ask(rig, stream, n=n)))
        await go_when(lambda: rig.prefill[0].running == 1, asking)
        await settled(shared_daemon, rig)
        assert rig.prefill[0].aborted == 1
        assert not rig.decode[0].bodies + rig.decode[1].bodies


@pytest.mark.parametrize("stream", [False, True])
async def test_before_the_first_token(shared_daemon, stream):
    async with routed_rig(shared_daemon) as rig:
        for engine in rig.decode:
            engine.gate = asyncio.Event()
        asking = asyncio.create_task(wait_for(ask(rig, stream)))
        await go_when(lambda: any(engine.running for engine in rig.decode), asking)
        await settled(shared_daemon, rig)


@pytest.mark.parametrize("n", [1, 2])
async def test_in_the_middle_of_a_stream(shared_daemon, n):
    async with routed_rig(shared_daemon) as rig:
        for engine in rig.decode:
            engine.pause = 0.02
        async with ask(rig, True, n=n) as answer:
            await answer.content.readany()
            await eventually(lambda: booked(shared_daemon) == n)
            answer.close()
        await settled(shared_daemon, rig)
        assert sum(engine.aborted for engine in rig.decode) == n


async def test_in_the_middle_of_an_answer(shared_daemon):
    async with routed_rig(shared_daemon) as rig:
        for engine in rig.decode:
            engine.pause = 0.02
        asking = asyncio.create_task(wait_for(ask(rig, False)))
        await go_when(lambda: booked(shared_daemon) == 1, asking)
        await settled(shared_daemon, rig)


async def test_while_the_decode_engine_cannot_be_reached(shared_daemon):
    """The KV was never asked for: another decode engine has it freed."""
    async with routed_rig(shared_daemon, decodes=2) as rig:
        await rig.stop(rig.decode[0])
        rig.decode[1].fault = 500
        answer, _ = await rig.post()
        assert answer.status == 502
        await settled(shared_daemon, rig)
        discards = [body for body in rig.decode[1].bodies if body["model"] != MODEL]
        assert discards
