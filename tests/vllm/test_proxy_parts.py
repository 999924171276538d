"""The proxy's parts by themselves: events, ring, legs, settings."""

import json
from collections import Counter

import pytest
from eldr_vllm.proxy import said, sse
from eldr_vllm.proxy.cli import read_settings
from eldr_vllm.proxy.cooldown import FIRST_SECONDS, LAST_SECONDS, CoolDown
from eldr_vllm.proxy.endpoints import ENDPOINTS
from eldr_vllm.proxy.errors import EngineFailed, ProxyError
from eldr_vllm.proxy.first_token import FirstToken
from eldr_vllm.proxy.fleet import Engine
from eldr_vllm.proxy.legs import split
from eldr_vllm.proxy.ring import SLACK, Ring

COMPLETIONS = ENDPOINTS["/v1/completions"]
WORKERS = [Engine(f"w{number}", f"http://w{number}") for number in range(8)]


STREAM = (
    'data: {"choices":[{"index":0,"text":"ä€😀"}]}\n\n: a comment\n\n'
    'event: x\ndata: {"choices":[{"index":0,\ndata: "text":"","finish_reason":"stop"}]}\n\n'
    "data: [DONE]\n\n"
).encode()


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
async def test_events_cut_anywhere(size, line_end):
    """Within a UTF-8 character, and between CR and LF."""
    stream = b"\xef\xbb\xbf" + STREAM.replace(b"\n", line_end)

    async def pieces():
        for start in range(0, len(stream), size):
            yield stream[start : start + size]

    events = [said.event(raw, COMPLETIONS) async for raw in sse.events(pieces())]
    assert b"".join(event.raw for event in events) == STREAM
    first, comment, last, done = events
    assert first.payload["choices"][0]["text"] == "ä€😀"
    assert (comment.is_comment, last.ends, done.is_done) == (True, 1, True)
    assert first.ends == 0


async def test_an_event_without_end_is_not_kept(monkeypatch):
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)

    async def pieces():
        while True:
            yield b"data: " * 100

    with pytest.raises(EngineFailed, match="1000 bytes"):
        async for _ in sse.events(pieces()):
            pass


def test_usage_is_not_mistaken():
    def event(**payload) -> said.Event:
        return said.event(sse.encode(payload), COMPLETIONS)

    assert event(choices=[], usage={"completion_tokens": 3}).is_usage_only
    assert not event(choices=[{"text": '"choices":[]'}]).is_usage_only
    continuous = event(choices=[{"text": "x"}], usage={"completion_tokens": None})
    assert continuous.usage == said.Usage(0, 0)
    assert not continuous.is_usage_only


@pytest.mark.parametrize(
    "usage",
    [[], "7", 7, {"prompt_tokens": -1}, {"completion_tokens": 2**31}, {"total_tokens": "9"}],
)
def test_usage_that_is_none_is_taken_out(usage):
    event = said.event(sse.encode({"choices": [], "usage": usage}), COMPLETIONS)
    assert event.usage is None
    assert b'"usage":null' in event.raw


def homes(workers: list[Engine], keys: int = 4000) -> dict[int, str]:
    ring, found = Ring(), {}
    for key in range(keys):
        with ring.hold(str(key).encode(), workers) as engine:
            found[key] = engine.worker_id
    return found


def test_a_worker_that_leaves_moves_only_its_own_prefixes():
    before, after = homes(WORKERS), homes(WORKERS[:-1])
    moved = {key for key in before if before[key] != after[key]}
    assert all(before[key] == "w7" for key in moved)
    shares = Counter(before.values())
    assert max(shares.values()) < 2 * min(shares.values())


def test_nobody_has_more_than_its_bound():
    ring = Ring()
    held = [ring.hold(b"the same", WORKERS) for _ in range(80)]
    loads = Counter(each.__enter__().worker_id for each in held)
    assert max(loads.values()) <= SLACK * 80 / 8 + 1
    for each in held:
        each.__exit__(None, None, None)
    with ring.hold(b"the same", WORKERS) as engine:
        assert engine.worker_id == next(iter(loads))  # at home again


def test_an_engine_that_goes_on_failing_is_left_alone_ever_longer():
    now = [0.0]
    cooldown = CoolDown(lambda: now[0])
    pauses = []
    for _ in range(6):
        cooldown.failed(["w0"])
        start = now[0]
        while cooldown.worker_ids:
            cooldown.failed(["w0"])  # a request that was under way; it prolongs nothing
            now[0] += 1
        pauses.append(now[0] - start)
    assert pauses == [5, 10, 20, 40, 60, 60]
    assert pauses[-1] == LAST_SECONDS
    cooldown.succeeded(["w0"])
    cooldown.failed(["w0"])
    now[0] += FIRST_SECONDS
    assert not cooldown.worker_ids


def test_nobody_is_spared_where_all_have_failed():
    cooldown = CoolDown()
    cooldown.failed(["w0"])
    assert cooldown.spare(WORKERS) == WORKERS[1:]
    assert cooldown.spare(WORKERS[:1]) == WORKERS[:1]


@pytest.mark.parametrize(
    ("body", "prompts"),
    [
        ({"prompt": "a"}, ["a"]),
        ({"prompt": [1, 2]}, [[1, 2]]),
        ({"prompt": ["a", "b"]}, ["a", "b"]),
        ({"prompt": [[1], [2, 3]]}, [[1], [2, 3]]),
        ({"prompt": []}, [[]]),
        ({"messages": [{"role": "user"}]}, [None]),
    ],
)
def test_prompts(body, prompts):
    legs = split("r", "/v1/completions", {**body, "kv_transfer_params": {"remote_host": "x"}})
    assert [leg.body.get("prompt") for leg in legs] == prompts
    assert not any("kv_transfer_params" in leg.body for leg in legs)
    assert len({leg.request_id for leg in legs}) == len(legs)


def completion(text: str, **more) -> said.Event:
    choice = {"text": text, "finish_reason": None, **more}
    return said.event(sse.encode({"choices": [choice]}), COMPLETIONS)


def text_in(event: said.Event) -> str:
    return json.loads(sse.data(event.raw))["choices"][0]["text"]


def test_the_first_token_is_cut_from_the_decode_wherever_it_is_split():
    first = FirstToken({"choices": [{"index": 0, "text": "abc", "finish_reason": "length"}]})
    assert text_in(first.events()[0]) == "abc"
    cut = [first.cut(completion(text)) for text in ("a", "bcd", "e")]
    assert [event and text_in(event) for event in cut] == [None, "d", "e"]


def test_a_first_token_that_ended_the_answer_is_not_sent():
    first = FirstToken({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
    assert first.events() == []
    event = completion("x")
    assert first.cut(event) == event


def test_settings_from_flags_and_environment(tmp_path):
    token = tmp_path / "token"
    token.write_text("secret\n")
    environ = {
        "ELDR_PROXY_PREFILL": "http://a/,http://b",
        "ELDR_PROXY_DECODE": "http://c",
        "ELDR_PROXY_ROUTE_TIMEOUT": "0.02",
        "ELDR_PROXY_MAX_WAIT": "2.5",
        "ELDR_PROXY_FIRST_TOKEN_FROM_PREFILL": "true",
        "ELDR_PROXY_TOKEN_FILE": str(token),
    }
    settings = read_settings(["--decode", "http://d", "http://e", "--listen", ":81"], environ)
    assert settings.prefill == ("http://a", "http://b")
    assert settings.decode == ("http://d", "http://e")
    assert (settings.host, settings.port) == ("127.0.0.1", 81)
    assert (settings.route_timeout, settings.token) == (0.02, "secret")
    assert settings.first_token_from_prefill
    assert settings.max_wait == 2.5
    assert settings.router == "127.0.0.1:50051"


@pytest.mark.parametrize(
    "flags",
    [
        ["--listen", "here"],
        ["--router", "none"],
        ["--router", "none", "--prefill", "http://a"],
        ["--attempts", "0"],
        ["--prefix-length", "0"],
        ["--forward-headers", "X-Request-Id"],
        ["--attempts", "many"],
        ["--nonsense"],
    ],
)
def test_wrong_use_exits_2(flags, capsys):
    with pytest.raises(SystemExit) as end:
        read_settings(flags, {})
    assert end.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_an_error_has_openais_shape():
    error = ProxyError(429, "full", "rate_limit_error", retry_after=0.2)
    assert json.loads(error.body)["error"] == {
        "message": "full",
        "type": "rate_limit_error",
        "param": None,
        "code": 429,
    }
    assert error.headers == {"Retry-After": "1"}
