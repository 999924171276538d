"""Running answers that go on at another engine: nobody can tell from what they say."""

import asyncio
import itertools

import grpc
import pytest
from eldr_client import EldrError
from eldr_client.aio import RouterClient
from eldr_vllm.proxy.cli import read_settings
from eldr_vllm.proxy.legs import Leg
from eldr_vllm.proxy.movable import can_go_on
from moving_rig import GREEDY, ask, moves, moving_rig, running, writes
from restless import restless_daemon
from scripted_engine import MODEL, eventually
from test_proxy_daemon import booked, routed_rig
from test_proxy_disconnect import settled
from text_engine import TextEngine, answer_to


def check(events: list[dict], prompt="Hello", length: int = 60) -> None:
    """One answer, of one engine as it seems."""
    choices = [choice for event in events for choice in event["choices"]]
    assert "".join(choice["text"] for choice in choices) == answer_to(prompt, length)
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]
    assert len({(event["id"], event["created"]) for event in events}) == 1
    assert not any(choice["token_ids"] or choice["prompt_token_ids"] for choice in choices)


def check_told(bodies: list[dict], prompt: int) -> None:
    """What the connectors of engines that go on are told of those before, and when it began."""
    told = [(len(body["prompt"]) - prompt, body["kv_transfer_params"]["eldr"]) for body in bodies]
    first, *others = sorted(told, key=lambda each: each[0])
    assert not first[1].keys() & {"output_tokens", "decode_seconds"}
    for written, eldr in others:
        assert eldr["output_tokens"] == written
        assert 0.1 < eldr["decode_seconds"] < 30


@pytest.mark.parametrize("at_once", [(1,), (1, 2), (3, 1, 1, 5)])
@pytest.mark.parametrize("prompt", ["Hello", [1, 2, 3]])
async def test_an_answer_moves_twice(shared_daemon, proposals, at_once, prompt):
    async with moving_rig(shared_daemon) as rig:
        for engine in rig.decode:
            engine.at_once, engine.pause = at_once, 0.02 * sum(at_once) / len(at_once)
        answer = ask(rig, prompt=prompt, stream_options={"include_usage": True})
        first = await writes(rig)
        proposals.propose(rig, 1 - first)
        await eventually(lambda: running(rig) == [1 - first])
        await asyncio.sleep(0.2)
        proposals.propose(rig, first, attempt=1)
        events = await answer
        check(events, prompt)
        assert events[-1]["usage"]["prompt_tokens"] == len(prompt)
        assert events[-1]["usage"]["completion_tokens"] == 60
        assert await moves(rig, "done") == 2
        assert await rig.metric("eldr_proxy_move_pause_seconds_count") == 2
        assert [engine.aborted for engine in rig.decode] == [1, 1]
        bodies = [body for engine in rig.decode for body in engine.decodes]
        assert all(body["kv_transfer_params"]["do_remote_prefill"] for body in bodies)
        assert {len(body["prompt"]) + body["max_tokens"] for body in bodies} == {60 + len(prompt)}
        check_told(bodies, len(prompt))
        await settled(shared_daemon, rig)


@pytest.mark.parametrize("static", [False, True])
async def test_an_answer_stays_if_its_engines_count_its_tokens(shared_daemon, proposals, static):
    labels = {"generation-config": "presence_penalty"}
    async with moving_rig(shared_daemon, labels=labels, static=static) as rig:
        answer = ask(rig)
        first = await writes(rig)
        proposals.propose(rig, 1 - first)
        check(await answer)
        assert not rig.decode[1 - first].decodes
        assert "return_token_ids" not in rig.decode[first].decodes[0]
        await settled(shared_daemon, rig)


async def test_the_last_attempt_is_released_with_the_whole_answer(
    shared_daemon, proposals, monkeypatch
):
    releases, release = [], RouterClient.release

    async def listen(client, model, request_id, **said):
        releases.append(said)
        return await release(client, model, request_id, **said)

    monkeypatch.setattr(RouterClient, "release", listen)
    async with moving_rig(shared_daemon) as rig:
        answer = ask(rig)
        proposals.propose(rig, 1 - await writes(rig))
        check(await answer)
        await settled(shared_daemon, rig)
    (said,) = releases
    assert (said["attempt"], said["output_tokens"]) == (1, 60)
    assert said["decode_duration"] > 0.02 * 59  # at both engines


async def test_continuous_usage_counts_the_whole_answer(shared_daemon, proposals):
    async with moving_rig(shared_daemon) as rig:
        options = {"include_usage": True, "continuous_usage_stats": True}
        answer = ask(rig, stream_options=options)
        proposals.propose(rig, 1 - await writes(rig))
        events = await answer
        check(events)
        counts = [event["usage"]["completion_tokens"] for event in events]
        assert counts == sorted(counts)
        assert {event["usage"]["prompt_tokens"] for event in events} == {5}
        assert await moves(rig, "done") == 1


async def test_a_move_without_prefill_workers(shared_daemon, proposals):
    async with moving_rig(shared_daemon, without_prefill_workers=True) as rig:
        answer = ask(rig)
        first = await writes(rig)
        asked = rig.decode[first].decodes[0]
        rig.prefill[0].bodies.append(asked)  # where the request's id is read
        proposals.propose(rig, 1 - first)
        check(await answer)
        assert await moves(rig, "done") == 1
        await eventually(lambda: booked(shared_daemon) == 0)


async def test_several_sequences_move_apart(shared_daemon, proposals):
    async with moving_rig(shared_daemon) as rig:
        answer = ask(rig, n=2)
        await eventually(lambda: len(rig.prefill[0].decodes) == 2)
        await asyncio.sleep(0.3)
        for request, worker in itertools.product((0, 1), (0, 1)):
            proposals.propose(rig, worker, request)
        events = await answer
        for index in (0, 1):
            own = [c for e in events for c in e["choices"] if c["index"] == index]
            assert "".join(choice["text"] for choice in own) == answer_to("Hello", 60)
        assert await moves(rig, "done") >= 2
        await settled(shared_daemon, rig)


async def test_a_target_that_is_full_leaves_it_where_it_is(shared_daemon, proposals):
    async with moving_rig(shared_daemon, capacity=1) as rig:
        answers = [ask(rig)]
        first = await writes(rig)
        answers.append(ask(rig))
        await eventually(lambda: len(running(rig)) == 2)
        proposals.propose(rig, 1 - first, request=0)
        for answer in answers:
            check(await answer)
        assert (await moves(rig, "refused"), await moves(rig, "done")) == (1, 0)
        assert not any(engine.aborted for engine in rig.decode)
        await settled(shared_daemon, rig)


async def test_a_prefill_that_fails_is_done_by_the_target(shared_daemon, proposals):
    async with moving_rig(shared_daemon) as rig:
        answer = ask(rig)
        first = await writes(rig)
        rig.prefill[0].fault = 500
        proposals.propose(rig, 1 - first)
        check(await answer)
        assert await moves(rig, "done") == 1
        assert "kv_transfer_params" not in rig.decode[1 - first].decodes[-1]
        await settled(shared_daemon, rig)


@pytest.mark.parametrize("fault", [500, 400, 429, "drop", "error-event"])
@pytest.mark.parametrize("attempts", [1, 3])
async def test_a_target_that_fails_costs_the_request_nothing(
    shared_daemon, proposals, fault, attempts
):
    async with moving_rig(shared_daemon, attempts=attempts) as rig:
        answer = ask(rig)
        first = await writes(rig)
        rig.decode[1 - first].fault = fault
        proposals.propose(rig, 1 - first)
        check(await answer)
        assert (await moves(rig, "failed"), await moves(rig, "done")) == (1, 0)
        await settled(shared_daemon, rig)


async def test_a_decode_that_breaks_off_goes_on_elsewhere(shared_daemon, proposals):
    async with moving_rig(shared_daemon) as rig:
        rig.decode[0].fault = rig.decode[1].fault = "break"
        rig.decode[0].faults_left = rig.decode[1].faults_left = 1
        events = await ask(rig)
        check(events)
        assert await rig.metric('eldr_proxy_retries_total{role="decode"}') == 2
        await settled(shared_daemon, rig)


@pytest.mark.parametrize("where", ["prefill", "target"])
async def test_a_client_that_goes_during_a_move(shared_daemon, proposals, where):
    async with moving_rig(shared_daemon) as rig:
        answer = ask(rig)
        first = await writes(rig)
        waits = rig.prefill[0] if where == "prefill" else rig.decode[1 - first]
        waits.gate = asyncio.Event()
        proposals.propose(rig, 1 - first)
        await eventually(lambda: waits.running == 1)
        answer.cancel()
        await settled(shared_daemon, rig)


async def test_a_stale_proposal_is_left_alone(shared_daemon, proposals):
    async with moving_rig(shared_daemon) as rig:
        answer = ask(rig)
        first = await writes(rig)
        proposals.propose(rig, 1 - first, attempt=1)
        check(await answer)
        assert not any(engine.aborted for engine in rig.decode)


async def test_the_first_token_from_the_prefill(shared_daemon, proposals):
    """Its text is cut from the whole answer's beginning, and from nothing else."""
    async with moving_rig(shared_daemon, first_token_from_prefill=True) as rig:
        answer = ask(rig)
        proposals.propose(rig, 1 - await writes(rig))
        events = await answer
        text = "".join(choice["text"] for event in events for choice in event["choices"])
        first, whole = events[0]["choices"][0]["text"], answer_to("Hello", 60)
        assert text == first + whole[len(first) :]
        assert await moves(rig, "done") == 1


async def test_an_older_daemon_is_noted_once(shared_daemon, monkeypatch, caplog):
    async def refuse(_client, _model):
        raise EldrError("unknown method", grpc.StatusCode.UNIMPLEMENTED)
        yield

    monkeypatch.setattr(RouterClient, "watch_moves", refuse)
    async with moving_rig(shared_daemon) as rig:
        for _ in range(3):
            check(await ask(rig))
        asked = [body for engine in rig.decode for body in engine.decodes]
        assert sum("return_token_ids" in body for body in asked) == 1
    assert sum("proposes no moves" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(
    ("options", "goes_on"),
    [
        ({}, True),
        ({"seed": 3, "top_p": 0.9, "n": 2, "ignore_eos": True, "stop_token_ids": [3]}, True),
        ({"repetition_penalty": 1.1, "presence_penalty": 0.0, "stop": []}, True),
        ({"temperature": 0.1, "top_p": 0.9, "top_k": 20, "min_p": 0.1}, True),
        ({"temperature": None}, True),
        ({"temperature": 0.1, "seed": 3}, False),
        ({"temperature": None, "seed": 3}, False),
        ({"stream": False}, False),
        ({"max_tokens": None}, False),
        ({"presence_penalty": 0.1}, False),
        ({"frequency_penalty": 0.1}, False),
        ({"stop": ["x"]}, False),
        ({"logprobs": 0}, False),
        ({"echo": True}, False),
        ({"min_tokens": 2}, False),
        ({"bad_words": ["x"]}, False),
        ({"return_token_ids": True}, False),
        ({"structured_outputs": {"choice": ["a"]}}, False),
        ({"response_format": {"type": "json_object"}}, False),
        ({"spaces_between_special_tokens": False}, False),
        ({"an_option_of_tomorrow": 1}, False),
    ],
)
def test_what_can_go_on(options, goes_on):
    leg = Leg("r", "/v1/completions", {**GREEDY, **options})
    assert can_go_on(leg.path, leg.body, leg.output_limit) is goes_on


def test_other_endpoints_stay():
    for path in ("/v1/responses", "/v1/messages"):
        assert not can_go_on(path, GREEDY, 60)


async def test_nothing_is_asked_for_without_moves(shared_daemon):
    async with routed_rig(shared_daemon, kind=TextEngine) as rig:
        check(await ask(rig))
        asked = [body for engine in rig.decode for body in engine.decodes]
        assert not any("return_token_ids" in body for body in asked)


def test_moves_need_a_daemon(capsys):
    workers = ["--prefill", "http://p", "--decode", "http://d"]
    with pytest.raises(SystemExit):
        read_settings(["--moves", "--router", "none", *workers], {})
    assert "--router is needed" in capsys.readouterr().err
    assert read_settings([], {"ELDR_PROXY_MOVES": "true"}).moves


async def test_a_daemon_that_moves_whatever_it_can():
    """Its own proposals, after bookings and ends."""
    with restless_daemon() as daemon:
        async with moving_rig(daemon, decodes=3) as rig:
            prompts = ["x" * length for length in range(5, 11)]
            answers = [ask(rig, prompt=prompt, max_tokens=150) for prompt in prompts]
            async with RouterClient(daemon.grpc, timeout=5.0) as client:
                for number in itertools.count():
                    if all(answer.done() for answer in answers):
                        break
                    await client.route(MODEL, f"event-{number}")
                    await client.release(MODEL, f"event-{number}")
                    await asyncio.sleep(0.02)
            for prompt, answer in zip(prompts, answers, strict=True):
                check(await answer, prompt, 150)
            assert await moves(rig, "done") >= 6
            assert await moves(rig, "failed") == 0
            await settled(daemon, rig)
