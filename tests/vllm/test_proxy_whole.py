"""Requests that cannot be taken apart: one decode engine serves them, booked like any other."""

import asyncio
import json

import pytest
from eldr_vllm.proxy.legs import split
from scripted_engine import eventually, running_rig, text_of
from test_proxy_daemon import booked, routed_rig

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
WHOLE = [
    (COMPLETIONS, {"use_beam_search": True, "n": 3}),
    (COMPLETIONS, {"prompt_logprobs": 0}),
    (COMPLETIONS, {"echo": True, "logprobs": 1}),
    (COMPLETIONS, {"echo": True, "max_tokens": 0}),
    (COMPLETIONS, {"prompt": ["a", "b"], "n": 2, "prompt_logprobs": 1}),
    (COMPLETIONS, {"truncate_prompt_tokens": -1}),
    (COMPLETIONS, {"prompt_embeds": "AAAA"}),
    (CHAT, {"messages": [], "prompt_logprobs": 2}),
    (CHAT, {"messages": [], "echo": True, "logprobs": True, "top_logprobs": 2}),
    (RESPONSES, {"input": "x", "truncation": "auto"}),
    (RESPONSES, {"input": "x", "tools": [{"type": "code_interpreter"}]}),
    (MESSAGES, {"messages": [], "tool_choice": {"type": "tool", "name": "f"}}),
]
APART = [
    (COMPLETIONS, {"echo": True}),
    (COMPLETIONS, {"prompt_logprobs": None, "logprobs": 5}),
    (COMPLETIONS, {"truncate_prompt_tokens": 100}),
    (CHAT, {"messages": [], "logprobs": True, "top_logprobs": 2}),
    (CHAT, {"messages": [], "tool_choice": "required"}),
    (RESPONSES, {"input": "x", "truncation": "disabled", "tools": [{"type": "function"}]}),
    (MESSAGES, {"messages": [], "tool_choice": {"type": "any"}}),
]


@pytest.mark.parametrize(("path", "body"), WHOLE)
async def test_what_is_served_whole(shared_daemon, path, body):
    async with routed_rig(shared_daemon, static=True) as rig:
        answer, _ = await rig.post(path, **body)
        assert answer.status == 200
        assert not rig.prefill[0].bodies
        (decode,) = rig.decode[0].bodies + rig.decode[1].bodies
        assert "kv_transfer_params" not in decode
        assert {name: decode[name] for name in body} == body
        assert await rig.metric('eldr_proxy_placements_total{reason="CLIENT_FALLBACK"}') == 0
        await eventually(lambda: booked(shared_daemon) == 0)


@pytest.mark.parametrize(("path", "body"), APART)
def test_what_is_taken_apart(path, body):
    (leg,) = split("r", path, body)
    assert leg.why_whole == ""


def test_a_booking_counts_all_its_sequences():
    (leg,) = split("r", COMPLETIONS, {"prompt": ["a", "b"], "n": 3, "prompt_logprobs": 1})
    assert leg.sequences == 6
    assert leg.body["n"] == 3


async def test_the_daemon_books_them_all(shared_daemon):
    async with routed_rig(shared_daemon, static=True) as rig:
        for engine in rig.decode:
            engine.gate = asyncio.Event()
        asking = asyncio.create_task(rig.post(n=3, use_beam_search=True))
        await eventually(lambda: booked(shared_daemon) == 3)
        for engine in rig.decode:
            engine.gate.set()
        assert (await asking)[0].status == 200
        await eventually(lambda: booked(shared_daemon) == 0)


async def test_sequences_of_one_stream_all_end():
    async with running_rig(decodes=1) as rig:
        _, stream = await rig.post(stream=True, n=3, use_beam_search=True)
        *events, done, _ = stream.split("\n\n")
        assert done == "data: [DONE]"
        choices = [choice for event in events for choice in json.loads(event[6:])["choices"]]
        assert [choice["index"] for choice in choices if choice["finish_reason"]] == [0, 1, 2]
        assert len(choices) == 15


TOOLS = {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}
HI = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_forced_tool_call_over_one_token_that_reads(stream):
    """The prompt may depend on the choice, so the prefill has it too; its token is not kept."""
    async with running_rig(decodes=1) as rig:
        answer, _ = await rig.post(CHAT, messages=HI, stream=stream, **TOOLS)
        assert answer.status == 200
        (prefill,), (decode,) = rig.prefill[0].bodies, rig.decode[0].bodies
        assert prefill["tool_choice"] == decode["tool_choice"] == "required"
        assert decode["kv_transfer_params"]
        assert not rig.pinned


async def test_a_forced_tool_call_over_one_token_that_does_not_read(shared_daemon):
    """Nobody is the worse for it: the decode engine serves the request alone."""
    async with routed_rig(shared_daemon, static=True, prefills=2) as rig:
        for engine in rig.prefill:
            engine.trips_on_tools = True
        for _ in range(3):
            answer, body = await rig.post(CHAT, messages=HI, **TOOLS)
            assert answer.status == 200
            assert body["choices"][0]["message"]["content"] == "".join(text_of(HI, 5))
        decodes = rig.decode[0].decodes + rig.decode[1].decodes
        assert not any("kv_transfer_params" in body for body in decodes)
        assert await rig.metric('eldr_proxy_retries_total{role="prefill"}') == 0
        assert (await rig.post())[0].status == 200  # by a prefill engine that is well
        await eventually(lambda: booked(shared_daemon) == 0)


STOPS = {"stop": ["."], "stop_token_ids": [7], "min_tokens": 3, "ignore_eos": False}


async def test_a_prefill_ends_by_its_length():
    """Some connectors hand no KV over for a prefill that was stopped (vLLM issue 46008)."""
    async with running_rig(decodes=1) as rig:
        await rig.post(**STOPS)
        prefill, decode = rig.prefill[0].bodies[0], rig.decode[0].bodies[0]
        assert not {"stop", "stop_token_ids", "min_tokens"} & prefill.keys()
        assert prefill["ignore_eos"] is True
        assert {name: decode[name] for name in STOPS} == STOPS


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT, RESPONSES])
@pytest.mark.parametrize("given", [{}, {"max_tokens": None}, {"max_tokens": 10**30}])
async def test_without_a_limit_that_means_something(shared_daemon, path, given):
    limit = "max_output_tokens" if path == RESPONSES else "max_tokens"
    body = {COMPLETIONS: {"prompt": "a"}, CHAT: {"messages": HI}, RESPONSES: {"input": "a"}}[path]
    given = dict(zip([limit], given.values(), strict=False))
    legs = split("r", path, {**body, **given, "model": "tiny"})
    assert legs[0].prefill_body(0)[limit] == 1
    assert legs[0].decode_body(None).get(limit) == given.get(limit)
    assert legs[0].output_limit < 2**31
    async with routed_rig(shared_daemon, static=True, decodes=1) as rig:
        body = {"model": "tiny", **body, **(given if given.get(limit) is None else {limit: 2})}
        async with rig.session.post(rig.url + path, json=body) as answer:
            assert answer.status == 200
