"""Real vLLM behind the proxy: what it writes, apart, is what one engine writes."""

import asyncio
import json
import time
from collections.abc import Callable
from functools import reduce
from itertools import zip_longest

import pytest
from aiohttp import ClientSession
from daemon import running_daemon
from eldr_vllm.proxy.app import Proxy
from eldr_vllm.proxy.engines import Engines
from eldr_vllm.proxy.fleet import Engine
from eldr_vllm.proxy.legs import Leg
from eldr_vllm.proxy.settings import Settings
from real_engines import MODEL, RealEngine, register, running_engines
from scripted_engine import serve
from test_proxy_daemon import booked

pytestmark = pytest.mark.vllm(engines=3)

PROMPTS = [
    f"{number}: a prompt of its own, long enough to fill a block or two" for number in range(4)
]
GREEDY = {"model": MODEL, "temperature": 0, "max_tokens": 24, "ignore_eos": True}
SETTLE = 1.0  # seconds


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm")
    with running_engines(folder, "kv_producer", "kv_consumer", "kv_consumer") as engines:
        yield engines


@pytest.fixture(scope="module")
def daemon(engines):
    with running_daemon() as daemon:
        register(daemon.grpc, engines)
        yield daemon


@pytest.fixture
async def session():
    async with ClientSession() as session:
        yield session


@pytest.fixture(params=[False])
async def proxy(daemon, session, request):
    """The parameter: the first token comes from the prefill."""
    settings = Settings(
        router=daemon.grpc,
        route_timeout=1.0,
        connect_timeout=10.0,
        first_token_from_prefill=request.param,
    )
    runner, url = await serve(Proxy(settings).app())
    while True:
        async with session.get(url + "/health") as answer:
            if (await answer.json())["workers"] == {"prefill": 1, "decode": 2}:
                break
        await asyncio.sleep(0.05)
    yield url
    await runner.cleanup()


async def ask(session: ClientSession, url: str, path: str, **body) -> dict | list[dict]:
    async with session.post(url + path, json={**GREEDY, **body}) as answer:
        text = await answer.text()
        assert answer.status == 200, text
    if not body.get("stream"):
        return json.loads(text)
    *events, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event[6:]) for event in events]


def said(answer: dict | list[dict]) -> dict:
    """What an answer says: a stream's events in one, and without what no two answers share."""
    whole = answer if isinstance(answer, dict) else reduce(together, answer)
    return {k: v for k, v in whole.items() if k not in ("id", "created", "kv_transfer_params")}


def together(one, other, key=""):
    """Two events in one: how many tokens vLLM writes in one depends on who is busy meanwhile."""
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, dict):
        return {k: together(one.get(k), other.get(k), k) for k in {**one, **other}}
    if key == "choices":
        return [together(*pair) for pair in zip_longest(one, other)]
    if isinstance(one, list) or key in ("text", "content"):
        return one + other
    return other


def requests() -> dict[str, tuple[str, dict]]:
    completions, chat = "/v1/completions", "/v1/chat/completions"
    messages = [{"role": "user", "content": PROMPTS[1]}]
    plain = {
        "plain": (completions, {"prompt": PROMPTS[0]}),
        "token ids": (completions, {"prompt": list(range(10, 90))}),
        "stop": (completions, {"prompt": PROMPTS[2], "stop": ["e", " "]}),
        "logprobs": (completions, {"prompt": PROMPTS[3], "logprobs": 3}),
        "echo": (completions, {"prompt": PROMPTS[3], "echo": True}),
        "echo, logprobs": (completions, {"prompt": PROMPTS[3], "echo": True, "logprobs": 1}),
        "no limit": (completions, {"prompt": PROMPTS[3], "max_tokens": None}),
        "usage": (completions, {"prompt": PROMPTS[0], "min_tokens": 4}),
        "seeded": (completions, {"prompt": PROMPTS[0], "temperature": 0.8, "seed": 3}),
        "seeded n": (completions, {"prompt": PROMPTS[0], "temperature": 0.8, "seed": 3, "n": 2}),
        "prompts": (completions, {"prompt": PROMPTS}),
        "chat": (chat, {"messages": messages}),
        "chat logprobs": (chat, {"messages": messages, "logprobs": True, "top_logprobs": 2}),
        "structured": (chat, {"messages": messages, "structured_outputs": {"choice": ["a", "b"]}}),
    }
    streamed = {
        f"{name}, streamed": (path, {**body, "stream": True})
        for name, (path, body) in plain.items()
        if name not in ("prompts", "seeded n")  # their events come in any order; see below
    }
    options = {
        "null": None,
        "empty": {},
        "usage": {"include_usage": True},
        "no usage": {"include_usage": False},
        "usage at once": {"include_usage": True, "continuous_usage_stats": True},
        "usage at once alone": {"continuous_usage_stats": True},
    }
    usage = {
        f"{path}, stream_options: {name}": (path, {**body, "stream": True, "stream_options": said})
        for name, said in options.items()
        for path, body in ((completions, {"prompt": PROMPTS[0]}), (chat, {"messages": messages}))
    }
    prompt_logprobs = {"prompt": PROMPTS[3], "prompt_logprobs": 2}
    return {**plain, **streamed, **usage, "prompt_logprobs": (completions, prompt_logprobs)}


@pytest.mark.parametrize("name", requests())
async def test_what_one_engine_writes(engines, proxy, session, name):
    path, body = requests()[name]
    apart = await ask(session, proxy, path, **body)
    alone = await ask(session, engines[1].url, path, **body)
    assert said(apart) == said(alone)


def newer(path: str, prompt: str) -> dict:
    limit = {"max_output_tokens": 24} if path == "/v1/responses" else {"max_tokens": 24}
    asked = {"messages": [{"role": "user", "content": prompt}]}
    return {
        "model": MODEL,
        "temperature": 0,
        **limit,
        **({"input": prompt} if path == "/v1/responses" else asked),
    }


def without_names(said):
    """What two answers share: no ids, times and whereabouts; pieces of text in one."""
    unique = (
        "id",
        "item_id",
        "created_at",
        "completed_at",
        "kv_transfer_params",
        "sequence_number",
        "cache_write_tokens",  # the decode engine says what it wrote itself
    )
    if isinstance(said, dict):
        return {k: without_names(v) for k, v in said.items() if k not in unique}
    return [without_names(each) for each in said] if isinstance(said, list) else said


def text_and_rest(events: list[dict]) -> tuple[str, list[dict]]:
    texts, rest = [], []
    for event in events:
        delta = event.get("delta")
        text = delta.get("text") if isinstance(delta, dict) else delta
        if isinstance(text, str):
            texts.append(text)
        else:
            rest.append(without_names(event))
    return "".join(texts), rest


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_newer_endpoints(engines, proxy, session, path, stream):
    """Prefilled and decoded apart, they say what one engine says.

    Of how many tokens were cached, too: none of a new prompt, though the decode computes none.
    """
    before = engines[0].metric("vllm:request_success_total")
    said = []
    for url in (engines[1].url, proxy):
        body = {**newer(path, f"{path} {stream} {PROMPTS[1]}"), "stream": stream}
        async with session.post(url + path, json=body) as answer:
            text = await answer.text()
            assert answer.status == 200, text
        if stream:
            lines = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
            said.append(text_and_rest([json.loads(line) for line in lines]))
        else:
            said.append(without_names(json.loads(text)))
    assert said[0] == said[1]
    assert engines[0].metric("vllm:request_success_total") == before + 1
    await idle(engines)


SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["x"]}},
    "required": ["a"],
    "additionalProperties": False,
}
CALL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
NAMED = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_forced_tool_call(engines, daemon, proxy, session, choice, stream):
    """The prefill's one token is no call, and that does not show."""
    body = {"messages": [{"role": "user", "content": PROMPTS[2]}], "tools": [CALL]}
    body.update(tool_choice=choice, stream=stream, max_tokens=200, ignore_eos=False)
    before = engines[0].metric("vllm:request_success_total")
    said = []
    for url in (proxy, engines[1].url):
        answer = await ask(session, url, "/v1/chat/completions", **body)
        choices = [c for e in answer for c in e["choices"]] if stream else answer["choices"]
        messages = [choice.get("delta", choice.get("message")) for choice in choices]
        calls = [call["function"] for each in messages for call in each.get("tool_calls") or ()]
        text = "".join(each.get("content") or "" for each in messages)
        arguments = "".join(call.get("arguments") or "" for call in calls)
        said.append((arguments, text, choices[-1]["finish_reason"]))
    assert said[0] == said[1]
    assert engines[0].metric("vllm:request_success_total") == before + 1
    await idle(engines)
    assert booked(daemon) == 0


async def test_a_named_tool_in_messages(engines, proxy, session):
    """With some parsers vLLM cannot read one token as its call, so it is served whole."""
    tool = {"name": "f", "input_schema": SCHEMA}
    body = {**newer("/v1/messages", PROMPTS[1]), "tools": [tool], "max_tokens": 200}
    body["tool_choice"] = {"type": "tool", "name": "f"}
    before = engines[0].metric("vllm:request_success_total")
    said = []
    for url in (proxy, engines[1].url):
        async with session.post(url + "/v1/messages", json=body) as answer:
            said.append((answer.status, without_names(await answer.json())))
    assert said[0] == said[1]
    assert engines[0].metric("vllm:request_success_total") == before
    await idle(engines)


async def test_streams_of_several_sequences(engines, proxy, session):
    body = {"prompt": PROMPTS[:2], "temperature": 0.8, "seed": 3, "n": 2, "stream": True}
    written = []
    for url in (proxy, engines[1].url):
        texts = [""] * 4
        for event in await ask(session, url, "/v1/completions", **body):
            for choice in event["choices"]:
                texts[choice["index"]] += choice["text"]
        written.append(texts)
    assert written[0] == written[1]


@pytest.mark.parametrize("proxy", [True], indirect=True)
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "seed": 5}])
@pytest.mark.parametrize("chat", [False, True])
async def test_the_first_token_from_the_prefill(engines, proxy, session, sampling, chat):
    path = "/v1/chat/completions" if chat else "/v1/completions"
    for prompt in PROMPTS:
        asked = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
        written = []
        for url in (proxy, engines[2].url):
            events = await ask(session, url, path, **asked, **sampling, stream=True)
            choices = [choice for event in events for choice in event["choices"]]
            pieces = [c["delta"].get("content") if chat else c["text"] for c in choices]
            written.append(("".join(filter(None, pieces)), choices[-1]["finish_reason"]))
        assert written[0] == written[1]


async def test_both_decode_engines_are_used_and_nothing_stays(engines, daemon, proxy, session):
    answers = await asyncio.gather(
        *(ask(session, proxy, "/v1/completions", prompt=prompt) for prompt in PROMPTS)
    )
    assert len(answers) == len(PROMPTS)
    assert all(engine.metric("vllm:request_success_total") for engine in engines)
    assert booked(daemon) == 0
    await idle(engines)


@pytest.mark.parametrize("phase", ["prefill", "placed", "decode"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes(engines, daemon, proxy, session, phase, stream):
    prefill, *decoders = engines
    # Each phase is made long enough to be seen: 2,048 tokens are all there is.
    words, tokens = (1, 1_900) if phase == "decode" else (90, 700)
    prompt = f"{phase} {stream} " + "so many words " * words
    body = {**GREEDY, "prompt": prompt, "max_tokens": tokens, "stream": stream}

    async def read() -> None:
        async with session.post(proxy + "/v1/completions", json=body) as answer:
            await answer.read()

    def run() -> float:
        return sum(engine.metric("vllm:num_requests_running") for engine in decoders)

    reached = {
        "prefill": lambda: prefill.metric("vllm:num_requests_running"),
        "placed": lambda: booked(daemon),
        "decode": run,
    }
    asking = asyncio.create_task(read())
    await comes_about(reached[phase], 10)
    assert not asking.done()
    asking.cancel()
    took = await idle(engines)
    start = time.monotonic()
    await comes_about(lambda: booked(daemon) == 0, SETTLE)
    print(f"{phase}, stream: {stream}: {took:.2f} s, and {time.monotonic() - start:.2f} s")


async def test_kv_that_nobody_fetches_is_freed(engines, session):
    prefill, decode, _ = engines
    leg = Leg("unfetched", "/v1/completions", {**GREEDY, "prompt": "nobody wants this " * 20})
    own = Engines(10.0, 60.0)
    try:
        async with session.post(prefill.url + leg.path, json=leg.prefill_body(0)) as answer:
            transfer = (await answer.json())["kv_transfer_params"]
        assert prefill.metric("vllm:kv_cache_usage_perc") > 0
        own.discard([Engine("gone", "http://127.0.0.1:9"), Engine("", decode.url)], leg, transfer)
        await idle(engines)
    finally:
        await own.close()


async def test_a_decode_engine_that_is_killed(engines, daemon, proxy, session):
    """Whose caller has seen no token is served elsewhere. The last test: one engine fewer now."""

    def asks(stream: bool) -> list[asyncio.Task]:
        return [
            asyncio.create_task(
                ask(session, proxy, "/v1/completions", prompt=p, max_tokens=100, stream=stream)
            )
            for p in PROMPTS
        ]

    asking = asks(False)
    await comes_about(lambda: engines[2].metric("vllm:num_requests_running"), 10)
    engines[2].kill()
    asking += asks(True) + asks(False)
    for answer in await asyncio.gather(*asking):
        last = answer[-1] if isinstance(answer, list) else answer
        assert last["choices"][0]["finish_reason"] == "length"
    await idle(engines[:2])
    assert booked(daemon) == 0


async def idle(engines: list[RealEngine]) -> float:
    """Seconds until nothing runs, waits or is held anywhere."""
    return await comes_about(lambda: all(engine.is_idle for engine in engines), SETTLE)


async def comes_about(holds: Callable[[], object], seconds: float) -> float:
    """Seconds until the condition holds; it may block."""
    start = time.monotonic()
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < start + seconds
        await asyncio.sleep(0.01)
    return time.monotonic() - start
