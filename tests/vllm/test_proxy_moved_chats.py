"""Chats that move: a completion goes on with them, and their callers see one chat."""

import asyncio

import pytest
from eldr_vllm.proxy.legs import Leg
from eldr_vllm.proxy.movable import can_go_on
from moving_rig import GREEDY, ask, moves, moving_rig, running, writes
from scripted_engine import eventually
from test_proxy_disconnect import settled
from text_engine import answer_to

CHATS = "/v1/chat/completions"
CHAT = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0}


def check(events: list[dict], length: int = 60) -> None:
    """One chat, of one engine as it seems."""
    choices = [choice for event in events for choice in event["choices"]]
    opening, *others = (choice["delta"] for choice in choices)
    assert opening == {"role": "assistant", "content": ""}
    assert "".join(delta["content"] for delta in others) == answer_to("Hello", length)
    assert all(delta.keys() == {"content"} for delta in others)
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]
    assert len({(event["id"], event["created"], event["model"]) for event in events}) == 1
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert not any(choice.get("token_ids") for choice in choices)
    assert not any(event.get("prompt_token_ids") for event in events)


@pytest.mark.parametrize("at_once", [(1,), (1, 2)])
@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_a_chat_moves_twice(shared_daemon, proposals, at_once, limit):
    async with moving_rig(shared_daemon) as rig:
        for engine in rig.decode:
            engine.at_once, engine.pause = at_once, 0.02 * sum(at_once) / len(at_once)
        options = {"stream_options": {"include_usage": True}, "max_tokens": None, limit: 60}
        answer = ask(rig, **CHAT, top_p=0.9, chat_template_kwargs={"a": 1}, **options)
        first = await writes(rig)
        proposals.propose(rig, 1 - first)
        await eventually(lambda: running(rig) == [1 - first])
        await asyncio.sleep(0.2)
        proposals.propose(rig, first, attempt=1)
        events = await answer
        check(events)
        usage = events[-1]["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (5, 60)
        assert await moves(rig, "done") == 2
        chat, *others = sorted(
            (body for engine in rig.decode for body in engine.decodes), key=lambda b: "prompt" in b
        )
        assert chat["messages"] == CHAT["messages"]
        for body in others:
            assert body["top_p"] == 0.9
            assert len(body["prompt"]) + body["max_tokens"] == 65
            assert not body.keys() & {"messages", "chat_template_kwargs", "max_completion_tokens"}
        await settled(shared_daemon, rig)


@pytest.mark.parametrize("fault", [500, 400, "drop", "break"])
async def test_a_target_that_fails_costs_a_chat_nothing(shared_daemon, proposals, fault):
    async with moving_rig(shared_daemon) as rig:
        answer = ask(rig, **CHAT)
        first = await writes(rig)
        rig.decode[1 - first].fault = fault
        proposals.propose(rig, 1 - first)
        check(await answer)
        assert await rig.metric('eldr_proxy_retries_total{role="decode"}') == 1
        await settled(shared_daemon, rig)


@pytest.mark.parametrize("at_once", [(1,), (1, 2)])
async def test_a_chat_whose_engine_breaks_off_goes_on_elsewhere(shared_daemon, proposals, at_once):
    async with moving_rig(shared_daemon) as rig:
        for engine in rig.decode:
            engine.at_once, engine.fault, engine.faults_left = at_once, "break", 1
        check(await ask(rig, **CHAT))
        assert await rig.metric('eldr_proxy_retries_total{role="decode"}') == 2
        await settled(shared_daemon, rig)


async def test_a_parsed_chat_whose_engine_breaks_off_ends_with_an_error(shared_daemon, proposals):
    async with moving_rig(shared_daemon) as rig:
        for engine in rig.decode:
            engine.parser, engine.fault = "reasoning", "break"
        asked = {**GREEDY, **CHAT}
        del asked["prompt"]
        async with rig.session.post(rig.url + CHATS, json=asked) as answer:
            *_, last, _, _ = (await answer.text()).split("\n\n")
        assert "the decode failed after its first token" in last
        await settled(shared_daemon, rig)


@pytest.mark.parametrize("why", ["reasoning", "dropped", "no /detokenize", "no token ids"])
async def test_a_chat_whose_text_may_not_be_all_stays(shared_daemon, proposals, monkeypatch, why):
    if why == "no token ids":
        monkeypatch.setattr(Leg, "decode_body", without_ids(Leg.decode_body))
    async with moving_rig(shared_daemon) as rig:
        for engine in rig.decode:
            engine.parser, engine.detokenizes = why, why != "no /detokenize"
        answer = ask(rig, **CHAT)
        first = await writes(rig)
        proposals.propose(rig, 1 - first)
        deltas = [choice["delta"] for event in await answer for choice in event["choices"]]
        text = answer_to("Hello", 60)
        said = "".join(delta.get("reasoning", "") + delta.get("content", "") for delta in deltas)
        assert said == (text.replace(",", "") if why == "dropped" else text)
        assert all(deltas)  # where a parser says nothing, nothing comes
        assert not rig.decode[1 - first].decodes
        await settled(shared_daemon, rig)


def without_ids(decode_body):
    """As of an engine that hides the tokens of what it parses."""

    def body(leg, kv_transfer_params):
        return {**decode_body(leg, kv_transfer_params), "return_token_ids": False}

    return body


@pytest.mark.parametrize(
    ("options", "goes_on"),
    [
        ({}, True),
        ({"max_tokens": None, "max_completion_tokens": 5, "temperature": 1.0}, True),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"}, True),
        ({"tools": [], "tool_choice": "none", "logprobs": False, "top_logprobs": 0}, True),
        ({"max_tokens": None}, False),
        ({"temperature": 1.0, "seed": 3}, False),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, False),
        ({"messages": "Hi"}, False),
        ({"tools": [{"type": "function"}]}, False),
        ({"tool_choice": "auto"}, False),
        ({"logprobs": True}, False),
        ({"echo": True}, False),
        ({"stop": "x"}, False),
        ({"include_reasoning": False}, False),
        ({"thinking_token_budget": 5}, False),
        ({"response_format": {"type": "text"}}, False),
        ({"mm_processor_kwargs": {}}, False),
        ({"an_option_of_tomorrow": 1}, False),
    ],
)
def test_which_chats_can_go_on(options, goes_on):
    leg = Leg("r", CHATS, {"max_tokens": 60, "stream": True, **CHAT, **options})
    assert can_go_on(leg.path, leg.body, leg.output_limit) is goes_on
