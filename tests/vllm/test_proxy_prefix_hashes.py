"""What the proxy tells the daemon of a prompt's beginning."""

from itertools import takewhile

import grpc
import pytest
from daemon import running_daemon
from eldr.v1.router_pb2 import RouteRequest
from eldr.v1.router_pb2_grpc import RouterServiceStub
from eldr_vllm.prefix_hashes import BLOCK_TOKENS, MOST
from eldr_vllm.proxy.legs import Leg
from eldr_vllm.proxy.prefix_hashes import of_leg
from scripted_engine import MODEL
from test_proxy_daemon import routed_rig

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def hashes(path=COMPLETIONS, **body):
    return of_leg(Leg("r", path, body))


def shared(one, other):
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))


def talk(*said):
    return [{"role": "user", "content": each} for each in said]


def test_a_turn_begins_as_the_one_before():
    before = hashes(CHAT, messages=talk("a question " * 200, "an answer " * 200))
    after = hashes(CHAT, messages=talk("a question " * 200, "an answer " * 200, "more " * 200))
    other = hashes(CHAT, messages=talk("a question " * 200, "otherwise " * 200, "more " * 200))
    assert len(before) == 8
    assert (len(after), shared(before, after)) == (10, 8)
    assert shared(other, after) == 4
    assert len(set(after)) == len(after)


def test_token_ids_are_cut_into_blocks_of_as_many():
    ids = list(range(5 * BLOCK_TOKENS - 1))
    assert len(hashes(prompt=ids)) == 4
    assert shared(hashes(prompt=ids), hashes(prompt=[*ids[:-1], 7, 7])) == 4
    assert shared(hashes(prompt=ids), hashes(prompt=[*ids[:200], 7, *ids[201:]])) == 1


def test_tenants_and_models_share_nothing():
    first = [
        hashes(prompt="x" * 1_000, **more)[0]
        for more in ({}, {"cache_salt": "a"}, {"cache_salt": "b"}, {"model": "m"})
    ]
    assert len(set(first)) == 4


def test_no_more_are_sent_than_are_read():
    assert len(hashes(prompt="x" * 3_000_000)) == MOST


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {}),
        (COMPLETIONS, {"prompt": []}),
        (COMPLETIONS, {"prompt": 7}),
        (COMPLETIONS, {"prompt": "\ud800" * 600}),
        (CHAT, {"messages": [None, 7, {"content": [{"text": "\ud800" * 600}]}]}),
        ("/v1/responses", {"input": {"a": 1}, "instructions": None, "cache_salt": 7}),
    ],
)
def test_any_prompt_has_some_or_none(path, body):
    assert all(0 <= each < 1 << 64 for each in hashes(path, **body))


async def test_the_daemon_believes_a_prompt_to_be_where_it_was_decoded():
    said = {"model": MODEL, "messages": talk("a long question " * 200)}
    with running_daemon() as daemon:
        async with routed_rig(daemon) as rig:
            assert (await rig.post(CHAT, **said))[0].status == 200
            number = [len(engine.decodes) for engine in rig.decode].index(1)
            with grpc.insecure_channel(daemon.grpc) as channel:
                asked = RouteRequest(
                    model=MODEL, request_id="next", dry_run=True,
                    prefix_hashes=hashes(CHAT, **said), prefix_block_tokens=BLOCK_TOKENS,
                )  # fmt: skip
                scores = RouterServiceStub(channel).Route(asked).placement.scores
    cached = {score.worker_id: score.cached_tokens for score in scores}
    assert cached == {f"DECODE-{i}": 6 * BLOCK_TOKENS * (i == number) for i in range(len(cached))}
