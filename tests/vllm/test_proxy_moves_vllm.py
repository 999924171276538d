"""Streams that move between real vLLM engines say, token for token, what one engine says."""

import asyncio
import itertools
import json
import uuid

import pytest
from aiohttp import ClientSession
from eldr_client.aio import RouterClient
from eldr_vllm.proxy.app import Proxy
from eldr_vllm.proxy.settings import Settings
from real_engines import MODEL, register, running_engines
from restless import restless_daemon
from scripted_engine import Rig, eventually, serve
from test_proxy_daemon import booked

pytestmark = pytest.mark.vllm(engines=3)

PROMPTS = [
    "Once upon a time, long enough ago to fill a block or two of tokens, ",
    "Größe, 世界 und 😀: characters of one byte to four, ",
    list(range(10, 200)),
    "short",
]


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm")
    with running_engines(folder, "kv_producer", "kv_consumer", "kv_consumer") as engines:
        yield engines


@pytest.fixture(scope="module")
def daemon(engines):
    with restless_daemon() as daemon:
        register(daemon.grpc, engines)
        yield daemon


async def stream(session: ClientSession, url: str, prompt: str | list[int]) -> tuple[str, dict]:
    """The text and the usage of a greedy answer."""
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 150, "temperature": 0}
    body.update(ignore_eos=True, stream=True, stream_options={"include_usage": True})
    async with session.post(url + "/v1/completions", json=body) as answer:
        *events, done, _ = (await answer.text()).split("\n\n")
        assert (answer.status, done) == (200, "data: [DONE]")
    *events, last = [json.loads(event[6:]) for event in events]
    assert len({event["id"] for event in events}) == 1
    return "".join(event["choices"][0]["text"] for event in events), last["usage"]


async def events_until(done: asyncio.Future, daemon) -> None:
    """Bookings and ends, after which moves are looked for."""
    events = uuid.uuid4()
    async with RouterClient(daemon.grpc) as client:
        for number in itertools.count():
            if done.done():
                return
            await client.route(MODEL, f"{events}-{number}")
            await client.release(MODEL, f"{events}-{number}")
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("without", [False, True], ids=["apart", "without prefill workers"])
async def test_moved_streams_are_those_of_one_engine(engines, daemon, without):
    settings = Settings(
        router=daemon.grpc,
        route_timeout=1.0,
        connect_timeout=10.0,
        moves=True,
        without_prefill_workers=without,
    )
    runner, url = await serve(Proxy(settings).app())
    async with ClientSession() as session:
        rig = Rig(prefill=[], decode=[], pinned=set(), url=url, session=session)
        alone = [await stream(session, engines[1].url, prompt) for prompt in PROMPTS]
        asking = asyncio.gather(*(stream(session, url, prompt) for prompt in PROMPTS))
        await events_until(asking, daemon)
        assert await asking == alone
        done = await rig.metric('eldr_proxy_moves_total{outcome="done"}')
        failed = await rig.metric('eldr_proxy_moves_total{outcome="failed"}')
        pause = await rig.metric("eldr_proxy_move_pause_seconds_sum") / max(done, 1)
        assert (done >= 1, failed) == (True, 0)
        tpot = await rig.metric("eldr_proxy_time_per_output_token_seconds_sum") / len(PROMPTS)
        print(f"{done:.0f} moves, a pause of {pause:.3f} s each; {tpot:.3f} s per token")
    await runner.cleanup()
    await eventually(lambda: booked(daemon) == 0)
    await eventually(lambda: all(engine.is_idle for engine in engines))
