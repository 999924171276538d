"""What a client of OpenAI's interface gets from the proxy, and what the engines get. No daemon."""

import asyncio
import json
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scripted_engine import MODEL, eventually, running_rig, text_of


def payloads(stream: str) -> list[dict]:
    *events, done, rest = stream.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def texts(events: list[dict]) -> dict[int, str]:
    found: dict[int, str] = {}
    for event in events:
        for choice in event["choices"]:
            piece = choice.get("text", choice.get("delta", {}).get("content"))
            found[choice["index"]] = found.get(choice["index"], "") + piece
    return found


async def test_the_engines_get_their_halves():
    async with running_rig(decodes=1) as rig:
        told = {
            "stop": ["."],
            "logprobs": 2,
            "min_tokens": 3,
            "temperature": 0.5,
            "seed": 11,
            "kv_transfer_params": {"remote_host": "evil", "do_remote_prefill": True},
        }
        answer, body = await rig.post(**told)
        assert answer.status == 200
        assert body["choices"][0]["text"] == "".join(text_of("Hello", 5))
        assert body["kv_transfer_params"] is None
        (prefill,), (decode,) = rig.prefill[0].bodies, rig.decode[0].bodies
        assert prefill["max_tokens"] == 1
        assert not prefill["stream"]
        assert {"min_tokens", "logprobs"}.isdisjoint(prefill)
        asked = prefill["kv_transfer_params"]
        assert (asked["do_remote_decode"], asked["do_remote_prefill"]) == (True, False)
        assert asked["eldr"].keys() == {"request_id", "epoch"}
        assert (decode["stop"], decode["logprobs"], decode["min_tokens"]) == (["."], 2, 3)
        assert (decode["max_tokens"], decode["seed"]) == (5, 11)
        handed = decode["kv_transfer_params"]
        assert "remote_host" not in handed
        assert handed["do_remote_prefill"]
        assert handed["remote_request_id"]
        assert handed["eldr"] == {
            "request_id": asked["eldr"]["request_id"],
            "attempt": 0,
            "lease_id": "",
        }
        assert not rig.pinned


async def test_chat_with_tools():
    async with running_rig() as rig:
        tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
        messages = [{"role": "user", "content": "Hi"}]
        answer, body = await rig.post(
            "/v1/chat/completions", messages=messages, tools=tools, response_format={"type": "text"}
        )
        assert answer.status == 200
        assert body["choices"][0]["message"]["content"] == "".join(text_of(messages, 5))
        prefill = rig.prefill[0].bodies[0]
        assert (prefill["max_tokens"], prefill["max_completion_tokens"]) == (1, 1)
        decode = (rig.decode[0].bodies + rig.decode[1].bodies)[0]
        assert decode["tools"] == prefill["tools"] == tools
        assert decode["response_format"] == {"type": "text"}
        assert "max_completion_tokens" not in decode


@pytest.mark.parametrize("wants_usage", [False, True])
async def test_a_stream_passes_as_it_is(wants_usage):
    async with running_rig(decodes=1) as rig:
        options = {"stream_options": {"include_usage": True}} if wants_usage else {}
        answer, stream = await rig.post(stream=True, **options)
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        direct = {k: v for k, v in rig.decode[0].bodies[0].items() if k != "kv_transfer_params"}
        direct.update(options)
        if not wants_usage:
            del direct["stream_options"]
        name = {"X-Request-Id": rig.decode[0].headers[0]["X-Request-Id"]}
        url = rig.decode[0].url + "/v1/completions"
        async with rig.session.post(url, json=direct, headers=name) as plain:
            assert stream == await plain.text()
        assert await rig.metric("eldr_proxy_time_per_output_token_seconds_count") == 1
        assert await rig.metric("eldr_proxy_time_to_first_token_seconds_count") == 1


async def test_several_sequences_of_several_prompts():
    async with running_rig(decodes=2) as rig:
        prompts = ["one", [1, 2, 3]]
        _, body = await rig.post(prompt=prompts, n=2, seed=5)
        assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
        expected = ["".join(text_of(p, 5)) for p in ("one", "one", [1, 2, 3], [1, 2, 3])]
        assert [choice["text"] for choice in body["choices"]] == expected
        # A prompt counts once, whatever n is.
        assert body["usage"] == {"prompt_tokens": 14, "completion_tokens": 20, "total_tokens": 34}
        decodes = rig.decode[0].bodies + rig.decode[1].bodies
        seeds = sorted((str(each["prompt"]), each["seed"], each["n"]) for each in decodes)
        assert seeds == [("[1, 2, 3]", 5, 1), ("[1, 2, 3]", 6, 1), ("one", 5, 1), ("one", 6, 1)]
        assert len(rig.prefill[0].bodies) == 4
        assert not rig.pinned


async def test_several_sequences_streamed():
    async with running_rig(decodes=2) as rig:
        _, stream = await rig.post(stream=True, n=3, stream_options={"include_usage": True})
        events = payloads(stream)
        assert texts(events) == dict.fromkeys(range(3), "".join(text_of("Hello", 5)))
        assert len({event["id"] for event in events}) == 1
        assert events[-1]["usage"]["completion_tokens"] == 15
        assert events[-1]["usage"]["prompt_tokens"] == 7


@pytest.mark.parametrize("stream", [False, True])
async def test_details_of_usage_are_summed_too(stream):
    async with running_rig() as rig:
        for engine in rig.decode:
            engine.details = {
                "prompt_tokens_details": {"cached_tokens": 3, "multimodal_tokens": None},
                "completion_tokens_details": {"reasoning_tokens": 2},
            }
        usage = {"stream_options": {"include_usage": True}} if stream else {}
        _, body = await rig.post(prompt=["one", "two"], n=2, stream=stream, **usage)
        usage = (payloads(body)[-1] if stream else body)["usage"]
        assert usage["prompt_tokens_details"] == {"cached_tokens": 6}
        assert usage["completion_tokens_details"] == {"reasoning_tokens": 8}


async def test_token_ids_are_one_prompt():
    async with running_rig() as rig:
        _, body = await rig.post(prompt=[4, 5, 6])
        assert len(body["choices"]) == 1
        assert rig.prefill[0].bodies[0]["prompt"] == [4, 5, 6]


async def test_later_sequences_wait_for_the_prefix():
    async with running_rig() as rig:
        rig.prefill[0].gate = asyncio.Event()
        asking = asyncio.create_task(rig.post(n=4))
        await eventually(lambda: rig.prefill[0].bodies)
        await asyncio.sleep(0.1)
        assert len(rig.prefill[0].bodies) == 1
        rig.prefill[0].gate.set()
        _, body = await asking
        assert len(body["choices"]) == 4


async def test_beam_search_is_left_to_one_engine():
    async with running_rig() as rig:
        answer, _ = await rig.post(use_beam_search=True, n=3)
        assert answer.status == 200
        assert not rig.prefill[0].bodies
        (decode,) = rig.decode[0].bodies + rig.decode[1].bodies
        assert decode["n"] == 3
        assert "kv_transfer_params" not in decode


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_the_first_token_from_the_prefill(path):
    async with running_rig(first_token_from_prefill=True) as rig:
        gates = [asyncio.Event(), asyncio.Event()]
        for engine, gate in zip(rig.decode, gates, strict=True):
            engine.gate = gate
        prompt = [{"role": "user", "content": "Hi"}] if "chat" in path else "Hello"
        name = "messages" if "chat" in path else "prompt"
        body = {"model": MODEL, name: prompt, "max_tokens": 5, "temperature": 0, "stream": True}
        async with rig.session.post(rig.url + path, json=body) as answer:
            early = (await answer.content.readany()).decode()  # before any decode engine answers
            for gate in gates:
                gate.set()
            stream = early + (await answer.read()).decode()
        assert text_of(prompt, 1)[0] in early
        events = payloads(stream)
        assert texts(events) == {0: "".join(text_of(prompt, 5))}
        assert sum("role" in e["choices"][0].get("delta", {}) for e in events) == ("chat" in path)


async def test_the_first_token_waits_where_it_could_differ():
    async with running_rig(first_token_from_prefill=True, decodes=1) as rig:
        for options in ({}, {"temperature": 0, "stop": ["x"]}, {"seed": 1, "logprobs": 1}):
            await rig.post(stream=True, **options)
        assert len(rig.decode[0].bodies) == 3
        plain = await rig.post(stream=True, temperature=0)
        assert texts(payloads(plain[1])) == {0: "".join(text_of("Hello", 5))}


async def test_refusals_pass_through():
    async with running_rig() as rig:
        answer, body = await rig.post(n=0)
        assert (answer.status, body["error"]["message"]) == (404, "no")
        rig.decode[0].fault = rig.decode[1].fault = 400
        answer, body = await rig.post(stream=False)
        assert (answer.status, body["error"]["message"]) == (400, "broken")
        await eventually(lambda: not rig.pinned)


WRONG = [
    b"",
    b"{",
    b"[]",
    b'"text"',
    b"\xff",
    b'{"temperature": NaN}',
    b'{"prompt": ' + b"[" * 300 + b"]" * 300 + b"}",
    b'{"prompt": ' + b"[" * 100_000,
    b'{"stream": "false"}',
    b'{"stream": 1}',
    b'{"n": "2"}',
    b'{"n": 2.0}',
    b'{"n": true}',
    b'{"n": 1000000}',
    b'{"model": 7}',
    b'{"model": "\\ud800"}',
]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_what_is_no_request(path):
    async with running_rig() as rig:
        for data in WRONG:
            async with rig.session.post(rig.url + path, data=data) as answer:
                assert answer.status == 400
                assert (await answer.json())["error"]["type"] == "invalid_request_error"
        assert not rig.prefill[0].bodies
        gzip = {"Content-Encoding": "gzip"}
        async with rig.session.post(rig.url + path, data=b"{}", headers=gzip) as answer:
            assert answer.status == 400


@pytest.mark.parametrize("prompt", ["\ud800", [[1, 2], "\ud800"], {"a": 1}, 7, None, [], [[]]])
async def test_what_is_the_engines_to_refuse(prompt):
    async with running_rig() as rig:
        answer, _ = await rig.post(prompt=prompt)
        assert answer.status == 200  # this engine refuses nothing


STREAM_OPTIONS = [
    (None, False),
    ({}, False),
    ({"include_usage": False}, False),
    ({"include_usage": True}, True),
    ({"include_usage": None, "continuous_usage_stats": True}, False),
    ({"include_usage": True, "continuous_usage_stats": True}, True),
]


@pytest.mark.parametrize(("options", "wanted"), STREAM_OPTIONS)
@pytest.mark.parametrize("n", [1, 2])
async def test_stream_options(options, wanted, n):
    """The proxy asks for the usage in any case, and for no more than that."""
    async with running_rig(decodes=1) as rig:
        _, stream = await rig.post(stream=True, stream_options=options, n=n)
        events = payloads(stream)
        assert texts(events) == dict.fromkeys(range(n), "".join(text_of("Hello", 5)))
        assert [bool(event.get("usage")) for event in events] == [False] * 5 * n + [True] * wanted
        assert "stream_options" not in rig.prefill[0].bodies[0]
        asked = rig.decode[0].bodies[0]["stream_options"]
        assert asked == (options if wanted else {"include_usage": True})


@pytest.mark.parametrize("options", ["x", [1], 7])
async def test_stream_options_that_are_none_are_the_engines_to_refuse(options):
    async with running_rig(decodes=1) as rig:
        await rig.post(stream_options=options)
        assert rig.decode[0].bodies[0]["stream_options"] == options


async def test_a_body_that_is_too_large():
    async with running_rig(max_body_bytes=1000) as rig:
        answer, body = await rig.post(prompt="x" * 2000)
        assert (answer.status, body["error"]["type"]) == (413, "invalid_request_error")
        name = 'eldr_proxy_requests_total{endpoint="/v1/completions",status="413"}'
        assert await rig.metric(name) == 1


async def test_models_health_and_metrics():
    async with running_rig() as rig:
        async with rig.session.get(rig.url + "/v1/models") as answer:
            assert (await answer.json())["data"][0]["id"] == MODEL
        async with rig.session.get(rig.url + "/health") as answer:
            assert await answer.json() == {
                "status": "ok",
                "workers": {"prefill": 1, "decode": 2},
                "router": "none",
            }
        name = "eldr_proxy_engine_time_per_output_token_seconds"
        own = f'engine="0",role="prefill",url="{rig.prefill[0].url}"'
        assert await rig.metric(f"{name}_sum{{{own}}}") == 0.5
        own = own.replace(",", ',le="0.1",', 1)
        assert await rig.metric(f"{name}_bucket{{{own}}}") == 3


NAME = b"vllm:time_to_first_token_seconds"
PAGES = {
    "HTML": b"<!DOCTYPE html><html><body class='x'>\n<p>404 &amp; { a=b }</p>\n</body></html>",
    "binary": bytes(range(256)) * 64,
    "UTF-16": f"# TYPE {NAME.decode()} histogram\n".encode("utf-16"),
    "empty": b"",
    "JSON": b'{"a": 1}\n["b"]\n',
    "a value that is none": NAME + b"_sum three\n",
    "a label without end": NAME + b'_sum{engine="0 3\n',
    "another type": b"# TYPE " + NAME + b" gauge\n" + NAME + b" 3\n",
    "a type that is none": b"# TYPE " + NAME + b"\n" + NAME + b"_sum 3\n",
    "a label that is ours": NAME + b'_sum{url="elsewhere",role="x"} 3\n',
    "half a character": NAME + b'_sum{engine="\xed\xa0\x80"} 3\n',
    "a bucket without bound": b"# TYPE " + NAME + b" histogram\n" + NAME + b"_bucket 3\n",
    "a timestamp that is none": NAME + b"_sum 3 1e999\n",
    "an exemplar": NAME + b'_sum 3 # {a="b"} 1\n',
    "quoted names": b'{"' + NAME + b'_sum", "la bel"="x"} 3\n',
    "a long line": NAME + b"_sum{a=" + b'"' * 100_000 + b"} 3\n",
}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
async def test_an_engine_whose_metrics_are_none_takes_none_of_the_others(page):
    async with running_rig() as rig:
        rig.decode[0].metrics_page = page
        async with rig.session.get(rig.url + "/metrics") as answer:
            assert answer.status == 200
            text = await answer.text()
        families = {family.name for family in text_string_to_metric_families(text)}
        assert "eldr_proxy_requests_in_flight" in families
        assert "_created" not in text
        name = "eldr_proxy_engine_time_per_output_token_seconds"
        for engine in (rig.prefill[0], rig.decode[1]):
            assert re.search(rf'{name}_sum{{.*url="{engine.url}".*}} 0.5', text)


async def test_the_engines_api_key_goes_through_and_the_rank_does_not():
    async with running_rig(decodes=1) as rig:
        headers = {"Authorization": "Bearer key", "X-data-parallel-rank": "7"}
        body = {"model": MODEL, "prompt": "Hello"}
        async with rig.session.post(rig.url + "/v1/completions", json=body, headers=headers) as a:
            assert a.status == 200
        for engine in (*rig.prefill, *rig.decode):
            assert engine.headers[0]["Authorization"] == "Bearer key"
            assert "X-data-parallel-rank" not in engine.headers[0]
