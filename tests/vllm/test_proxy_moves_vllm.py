"""Streams that move between real vLLM engines: greedy ones say what one engine says."""

import asyncio
import itertools
import json
import uuid
from contextlib import asynccontextmanager

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
TOKENS = 150
PRINTABLE = list(range(94))
"""Tokens that are a character each, so that random weights write text."""


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


@asynccontextmanager
async def moving_proxy(engines, daemon, **settings):
    """A proxy as a rig; in the end nothing is booked, nothing runs, and no move has failed."""
    waits = {"route_timeout": 1.0, "connect_timeout": 10.0}
    proxy = Proxy(Settings(router=daemon.grpc, moves=True, **waits, **settings))
    runner, url = await serve(proxy.app())
    await eventually(proxy._fleet.has_told.is_set)
    async with ClientSession() as session:
        rig = Rig(prefill=[], decode=[], pinned=set(), url=url, session=session)
        yield rig
        done, failed = [
            await rig.metric(f'eldr_proxy_moves_total{{outcome="{outcome}"}}')
            for outcome in ("done", "failed")
        ]
        assert (done >= 1, failed) == (True, 0)
        pause = await rig.metric("eldr_proxy_move_pause_seconds_sum") / done
        tpot, answers = [
            await rig.metric(f"eldr_proxy_time_per_output_token_seconds_{name}")
            for name in ("sum", "count")
        ]
        print(f"{done:.0f} moves, a pause of {pause:.3f} s each; {tpot / answers:.3f} s per token")
    await runner.cleanup()
    await eventually(lambda: booked(daemon) == 0)
    await eventually(lambda: all(engine.is_idle for engine in engines))


async def stream(session: ClientSession, url: str, **said) -> tuple[str, dict]:
    """The text and the usage of an answer, greedy if nothing else is said."""
    body = {"model": MODEL, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, **said}
    body.update(stream=True, stream_options={"include_usage": True})
    path = "/v1/chat/completions" if "messages" in said else "/v1/completions"
    async with session.post(url + path, json=body) as answer:
        *events, done, _ = (await answer.text()).split("\n\n")
        assert (answer.status, done) == (200, "data: [DONE]")
    *events, last = [json.loads(event[6:]) for event in events]
    assert len({(event["id"], event["object"], event["created"]) for event in events}) == 1
    choices = [event["choices"][0] for event in events]
    assert [c["finish_reason"] for c in choices if c["finish_reason"]] == ["length"]
    if "messages" not in said:
        return "".join(choice["text"] for choice in choices), last["usage"]
    assert [choice["delta"].get("role") for choice in choices[:2]] == ["assistant", None]
    return "".join(choice["delta"]["content"] for choice in choices), last["usage"]


async def events_until(done: asyncio.Future, daemon, model: str) -> None:
    """Bookings and ends, after which moves are looked for."""
    events = uuid.uuid4()
    async with RouterClient(daemon.grpc, timeout=5.0) as client:
        for number in itertools.count():
            if done.done():
                return
            await client.route(model, f"{events}-{number}")
            await client.release(model, f"{events}-{number}")
            await asyncio.sleep(0.2)


async def moved(rig: Rig, daemon, asked: list[dict], model: str = MODEL) -> list[tuple[str, dict]]:
    """The answers to requests that move while they run."""
    asking = asyncio.gather(*(stream(rig.session, rig.url, **body, model=model) for body in asked))
    await events_until(asking, daemon, model)
    return await asking


@pytest.mark.parametrize("without", [False, True], ids=["apart", "without prefill workers"])
async def test_moved_streams_are_those_of_one_engine(engines, daemon, without):
    asked = [{"prompt": prompt} for prompt in PROMPTS]
    async with moving_proxy(engines, daemon, without_prefill_workers=without) as rig:
        alone = [await stream(rig.session, engines[1].url, **body) for body in asked]
        assert await moved(rig, daemon, asked) == alone


async def test_moved_chats_are_those_of_one_engine(engines, daemon):
    asked = [
        {"messages": [{"role": "user", "content": text}], "allowed_token_ids": PRINTABLE}
        for text in ("Tell me of the sea.", "And of mountains, at more length than before!")
    ]
    async with moving_proxy(engines, daemon) as rig:
        alone = [await stream(rig.session, engines[1].url, **body) for body in asked]
        assert await moved(rig, daemon, asked) == alone


async def test_moved_samples_are_whole(engines, daemon):
    sampled = {"temperature": 1.0, "top_p": 0.95, "allowed_token_ids": PRINTABLE}
    asked = [{"prompt": text, **sampled} for text in PROMPTS if isinstance(text, str)]
    async with moving_proxy(engines, daemon) as rig:
        for body, (text, usage) in zip(asked, await moved(rig, daemon, asked), strict=True):
            assert (len(text), usage["completion_tokens"]) == (TOKENS, TOKENS)
            assert usage["prompt_tokens"] == len(body["prompt"].encode())


async def test_streams_survive_the_death_of_their_engine(engines, daemon):
    """The last test of this module: it kills one of the two decode engines."""
    said = [{"role": "user", "content": "Tell me of the sea."}]
    asked: list[dict] = [{"prompt": prompt} for prompt in PROMPTS[:3]]
    asked += [{"messages": said, "allowed_token_ids": PRINTABLE, "top_p": n / 10} for n in (8, 9)]
    proxy = Proxy(Settings(router=daemon.grpc, moves=True, route_timeout=1.0, connect_timeout=10.0))
    runner, url = await serve(proxy.app())
    await eventually(proxy._fleet.has_told.is_set)
    async with ClientSession() as session:
        alone = [await stream(session, engines[1].url, **body) for body in asked]
        before = engines[2].metric("vllm:generation_tokens_total")
        asking = asyncio.gather(*(stream(session, url, **body) for body in asked))
        await eventually(lambda: engines[2].metric("vllm:generation_tokens_total") > before + 40)
        engines[2].kill()
        assert await asking == alone
        rig = Rig(prefill=[], decode=[], pinned=set(), url=url, session=session)
        assert await rig.metric('eldr_proxy_retries_total{role="decode"}') >= 2
    await runner.cleanup()
    await eventually(lambda: booked(daemon) == 0)
    await eventually(lambda: all(engine.is_idle for engine in engines[:2]))
