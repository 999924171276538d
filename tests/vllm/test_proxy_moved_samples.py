"""Sampled answers that move: what is written stays, the rest is another engine's sample."""

import json

import pytest
from eldr_client import Move, WorkerTarget
from eldr_vllm.proxy import said
from eldr_vllm.proxy.endpoints import ENDPOINTS
from eldr_vllm.proxy.written import Written
from moving_rig import ask, moves, moving_rig, writes
from scripted_engine import MODEL
from test_proxy_disconnect import settled
from text_engine import answer_to

SAMPLED = {"prompt": "Hello, w", "temperature": 0.8}


def text_of(events: list[dict]) -> str:
    return "".join(choice["text"] for event in events for choice in event["choices"])


@pytest.mark.parametrize("at_once", [(1,), (3, 1, 1, 5)])
async def test_another_engines_sample_follows_what_is_written(shared_daemon, proposals, at_once):
    async with moving_rig(shared_daemon) as rig:
        for engine in rig.decode:
            engine.at_once, engine.pause = at_once, 0.02 * sum(at_once) / len(at_once)
        answer = ask(rig, **SAMPLED)
        first = await writes(rig)
        target = rig.decode[1 - first]
        target.shift = 7
        proposals.propose(rig, 1 - first)
        text = text_of(await answer)
        (asked,) = target.decodes
        written = asked["prompt"][len(SAMPLED["prompt"]) :]
        assert written
        assert asked["max_tokens"] == 60 - len(written)
        begin = answer_to(SAMPLED["prompt"], len(written))
        assert text == begin + answer_to(asked["prompt"], asked["max_tokens"], shift=7)
        assert (await moves(rig, "done"), await moves(rig, "failed")) == (1, 0)
        await settled(shared_daemon, rig)


async def test_a_sample_whose_engine_breaks_off_goes_on_elsewhere(shared_daemon, proposals):
    async with moving_rig(shared_daemon) as rig:
        for number, engine in enumerate(rig.decode):
            engine.fault, engine.faults_left = "break", 1 - number
        assert text_of(await ask(rig, **SAMPLED)) == answer_to(SAMPLED["prompt"], 60)
        await settled(shared_daemon, rig)


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_only_greedy_tokens_are_written_twice(temperature):
    """Of a character's three tokens the first have no text: sampled anew, they would be others."""
    written = Written("/v1/completions", {"temperature": temperature}, 60)
    move = Move(MODEL, "r", 0, "", WorkerTarget("w", "http://w", 0), 1.0)
    due = []
    for token, text in zip("→".encode(), ("", "", "→"), strict=True):
        choice = {"index": 0, "text": text, "token_ids": [token], "prompt_token_ids": [1]}
        data = json.dumps({"choices": [choice]}).encode()
        assert written.take(said.event(b"data: " + data + b"\n\n", ENDPOINTS["/v1/completions"]))
        written.proposed = written.proposed or move
        can, goes = written.can_go_on, written.due_move(0)
        due.append((can, goes is not None))
    sampled = [(False, False), (False, False), (True, True)]
    assert due == ([(True, True)] * 3 if temperature == 0 else sampled)
