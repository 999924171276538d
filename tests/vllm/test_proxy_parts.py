"""The proxy's parts by themselves: events, ring, legs, settings."""

import json
from collections import Counter

import pytest
from eldr_vllm.proxy import sse
from eldr_vllm.proxy.cli import read_settings
from eldr_vllm.proxy.cooldown import FIRST_SECONDS, LAST_SECONDS, CoolDown
from eldr_vllm.proxy.errors import ProxyError
from eldr_vllm.proxy.first_token import FirstToken
from eldr_vllm.proxy.fleet import Engine
from eldr_vllm.proxy.legs import split
from eldr_vllm.proxy.ring import SLACK, Ring

WORKERS = [Engine(f"w{number}", f"http://w{number}") for number in range(8)]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
async def test_events_cut_anywhere(size):
    stream = b'data: {"a":1}\n\n: a comment\n\ndata: {"b":"x"}\n\ndata: [DONE]\n\n'

    async def pieces():
        for start in range(0, len(stream), size):
            yield stream[start : start + size]

    events = [event async for event in sse.events(pieces())]
    assert b"".join(events) == stream
    assert events[-1] == sse.DONE
    assert [sse.decode(event) for event in events[:3]] == [{"a": 1}, {}, {"b": "x"}]


def test_usage_is_not_mistaken():
    assert sse.has_usage_only(b'data: {"id":"x","choices":[],"usage":{}}\n\n')
    assert not sse.has_usage_only(sse.encode({"choices": [{"text": '"choices":[]'}]}))


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


def test_the_first_token_is_cut_from_the_decode_wherever_it_is_split():
    first = FirstToken({"choices": [{"index": 0, "text": "abc", "finish_reason": "length"}]})
    assert sse.decode(first.events()[0])["choices"][0]["text"] == "abc"
    texts = [
        (event and sse.decode(event)["choices"][0]["text"])
        for event in (
            first.cut(sse.encode({"choices": [{"text": text, "finish_reason": None}]}))
            for text in ("a", "bcd", "e")
        )
    ]
    assert texts == [None, "d", "e"]


def test_a_first_token_that_ended_the_answer_is_not_sent():
    first = FirstToken({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
    assert first.events() == []
    event = sse.encode({"choices": [{"text": "x"}]})
    assert first.cut(event) == event


def test_settings_from_flags_and_environment(tmp_path):
    token = tmp_path / "token"
    token.write_text("secret\n")
    environ = {
        "ELDR_PROXY_PREFILL": "http://a/,http://b",
        "ELDR_PROXY_DECODE": "http://c",
        "ELDR_PROXY_ROUTE_TIMEOUT": "0.02",
        "ELDR_PROXY_FIRST_TOKEN_FROM_PREFILL": "true",
        "ELDR_PROXY_TOKEN_FILE": str(token),
    }
    settings = read_settings(["--decode", "http://d", "http://e", "--listen", ":81"], environ)
    assert settings.prefill == ("http://a", "http://b")
    assert settings.decode == ("http://d", "http://e")
    assert (settings.host, settings.port) == ("127.0.0.1", 81)
    assert (settings.route_timeout, settings.token) == (0.02, "secret")
    assert settings.first_token_from_prefill
    assert settings.router == "127.0.0.1:50051"


@pytest.mark.parametrize(
    "flags",
    [
        ["--listen", "here"],
        ["--router", "none"],
        ["--router", "none", "--prefill", "http://a"],
        ["--attempts", "0"],
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
