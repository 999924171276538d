"""Conversations: what their prompts share, what workers keep of it, and what a price of it does."""

from dataclasses import replace

import numpy as np
import pytest
from small_simulation import ENGINES, RECORDING, WORKLOAD, assert_same

from eldr_service.lab.simulation.conversations import Conversations
from eldr_service.lab.simulation.deployment import Delay, Deployment
from eldr_service.lab.simulation.prefix_caches import PrefixCaches
from eldr_service.lab.simulation.simulate import simulate
from eldr_service.policies.registry import create

TALK = Conversations(
    10.0, 60.0, turns=6, pause_s=0.2, think_s=0.3, first_tokens=600, new_tokens=100,
    output_tokens=50,
)  # fmt: skip
TALKED = replace(WORKLOAD, requests=TALK.draw(1))
AROUND = Deployment(ENGINES, transfer=Delay(0.0, 1e-4), report_interval_s=0.1)


def run(deployment=AROUND, **parameters):
    return simulate(TALKED, create("marginal-cost", parameters), deployment)


def test_every_prompt_begins_with_the_one_before():
    requests = TALK.draw(3)
    prefixes = requests.prefixes
    assert len(requests.times_s) == pytest.approx(600, rel=0.2)
    assert (np.diff(requests.times_s) >= 0).all()
    last = {}
    for conversation, hashes, prompt, time in zip(
        prefixes.conversations.tolist(), prefixes.hashes, requests.prompt_tokens,
        requests.times_s, strict=True,
    ):  # fmt: skip
        assert len(hashes) == prompt // 64
        if conversation in last:
            before, its_prompt, its_time = last[conversation]
            assert hashes[: len(before)] == before
            assert prompt >= its_prompt + TALK.output_tokens
            assert time >= its_time + TALK.pause_s
        last[conversation] = hashes, prompt, time
    every = [hashes for hashes, _, _ in last.values()]
    assert len(set().union(*every)) == sum(map(len, every))  # nothing between conversations
    again = TALK.draw(3)
    assert again.times_s.tolist() == requests.times_s.tolist()
    assert again.prefixes.hashes == prefixes.hashes


def test_no_requests():
    with pytest.raises(ValueError, match="no request arrives"):
        Conversations(1e-6, 1e-6).draw(0)


def test_caches_keep_what_was_used_last_and_drop_ends_first():
    caches = PrefixCaches([640, None], 64)
    long, other = tuple(range(8)), tuple(range(100, 104))
    caches.keep(0, long, 0)
    caches.keep(1, long, 0)
    assert caches.held(0, (*long, 50)) == 512
    caches.keep(0, other, 0)  # 12 blocks, where there is room for 10
    assert (caches.held(0, long), caches.held(0, other)) == (6 * 64, 4 * 64)
    caches.keep(0, (), 320)  # running requests need half
    assert (caches.held(0, long), caches.held(0, other)) == (64, 4 * 64)
    assert caches.held(1, long) == 512


def test_what_is_there_is_not_transferred():
    around = Deployment(ENGINES, transfer=Delay(0.5, 1e-3), chunk_tokens=100)
    assert around.kv_ready(0.0, 0.0, 250) == pytest.approx(0.75)
    assert around.kv_ready(0.0, 0.0, 250, 200) == pytest.approx(0.55)
    assert around.kv_ready(0.0, 9.0, 250, 230) == pytest.approx(9.52)
    assert around.kv_ready(1.0, 0.0, 250, 250) == pytest.approx(1.5)


def test_requests_of_a_conversation_are_of_one_domain():
    result = run()
    domains = RECORDING.domains[result.recording]
    conversations = TALKED.requests.prefixes.conversations
    by_conversation = {
        int(c): set(domains[conversations == c].tolist()) for c in np.unique(conversations)
    }
    assert all(len(of) == 1 for of in by_conversation.values())
    assert len(set().union(*by_conversation.values())) == 8


def test_the_price_makes_conversations_stay_where_they_are():
    unpriced, priced = run(token_transfer_us="0"), run(token_transfer_us="100")
    shares = [one.figures()["cached_share"] for one in (unpriced, priced)]
    assert shares[1] > shares[0] + 0.15
    assert priced.ttft_s.mean() < unpriced.ttft_s.mean()
    # A first prompt is nowhere, and of a later one what is new is not there either.
    first = np.unique(TALKED.requests.prefixes.conversations, return_index=True)[1]
    assert not priced.cached_tokens[first].any()
    assert (priced.cached_tokens < priced.prompt_tokens).all()


def test_replicas_prefill_what_they_do_not_hold():
    plain = replace(AROUND, transfer=Delay(), prefill=Delay(0.0, 1e-4), plain=True)
    result = run(plain, token_transfer_us="100")
    assert result.figures()["cached_share"] > 0.4
    left = 1e-4 * (result.prompt_tokens - result.cached_tokens)
    assert (result.first_token_s - result.placed_s >= left).all()
    assert result.ttft_s.mean() < 1e-4 * result.prompt_tokens.mean()


def test_small_memories_keep_less():
    small = tuple(replace(engine, kv_tokens=6_000) for engine in ENGINES)
    shares = [
        run(around, token_transfer_us="100").figures()["cached_share"]
        for around in (AROUND, replace(AROUND, engines=small))
    ]
    assert shares[1] < 0.8 * shares[0]


def test_traffic_without_conversations_has_nothing_there():
    policy = create("marginal-cost", {})
    result = simulate(WORKLOAD, policy, AROUND)
    assert result.figures()["cached_share"] == 0
    assert_same(result, simulate(WORKLOAD, create("marginal-cost", {}), AROUND))
