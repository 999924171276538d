"""Queues, KV memory, ranks and mixed hardware against closed forms and cases worked by hand."""

import math

import numpy as np
import pytest

from eldr_service.lab.simulation.arrivals import poisson_arrivals
from eldr_service.lab.simulation.cost import StepCost
from eldr_service.lab.simulation.decode_pool import DecodePool
from eldr_service.lab.simulation.engine import Engine
from eldr_service.lab.simulation.expert_sets import count_bits, expert_sets, shard_sets

SECOND = StepCost("a second a step", per_layer_us=1e6, per_expert_us=0.0)
EXPERT = StepCost("a second an expert", per_layer_us=0.0, per_expert_us=1e6)


def one_layer(*tokens):
    """Tokens of one layer, each the list of its experts."""
    return np.array(tokens, np.uint8)[:, None, :]


def ended(pool):
    return {f.request_key: (f.first_token_s, f.end_s) for f in pool.advance(math.inf)}


def test_a_server_of_one_request_at_a_time_is_an_m_d_1_queue():
    service, load = 3.0, 0.7
    times = poisson_arrivals(load / service, 40_000 * service / load, seed=4)
    pool = DecodePool(one_layer([0], [0], [0]), 4, [Engine(SECOND, max_running=1)])
    for key, time in enumerate(times.tolist()):
        pool.start(time, 0, key, slice(0, 3))
    ends = np.array([end for _, (_, end) in sorted(ended(pool).items())])
    waits = ends - times - service
    expected, wait = [], 0.0
    for gap in np.diff(times, append=math.inf):  # Lindley's recursion
        expected.append(wait)
        wait = max(0.0, wait + service - gap)
    assert waits == pytest.approx(expected, abs=1e-6)
    assert waits.mean() == pytest.approx(load * service / (2 * (1 - load)), rel=0.05)


def test_a_batch_costs_what_its_sequences_and_contexts_cost():
    cost = StepCost(
        "c",
        per_layer_us=1e6,
        per_expert_us=0.0,
        per_sequence_us=2e6,
        per_context_token_us=1e4,
        fixed_us=5e6,
    )
    pool = DecodePool(np.zeros((4, 3, 1), np.uint8), 2, [Engine(cost)])
    pool.start(0.0, 0, "a", slice(0, 2), prompt_tokens=10)
    pool.start(0.0, 0, "b", slice(0, 2), prompt_tokens=20)
    first = 5 + 3 * (1 + 2 * 2 + 0.01 * (11 + 21))
    second = 5 + 3 * (1 + 2 * 2 + 0.01 * (12 + 22))
    for first_token_s, end_s in ended(pool).values():
        assert (first_token_s, end_s) == pytest.approx((first, first + second))


def test_more_output_than_recorded_goes_through_the_tokens_again():
    ids = one_layer([0, 1], [2, 2], [3, 3])
    pool = DecodePool(ids, 4, [Engine(EXPERT)])
    pool.start(0.0, 0, "r", slice(0, 3), output_tokens=7)
    assert ended(pool) == {"r": (2.0, 2 + 1 + 1 + 2 + 1 + 1 + 2)}
    assert pool.statistics().tokens == 7


def test_kv_memory_admits_in_order_and_for_the_whole_output():
    pool = DecodePool(one_layer([0]), 4, [Engine(SECOND, kv_tokens=10)])
    # (prompt, output): two fit; the third does not and the fourth, which would, does not overtake.
    for key, (prompt, output) in enumerate([(2, 2), (2, 4), (3, 2), (0, 1)]):
        pool.start(0.0, 0, key, slice(0, 1), output_tokens=output, prompt_tokens=prompt)
    pool.advance(0.5)
    assert (pool.held(0), pool.running(0), pool.kv_used(0)) == (4, 2, 10)
    assert ended(pool) == {0: (1.0, 2.0), 1: (1.0, 4.0), 2: (5.0, 6.0), 3: (5.0, 5.0)}
    assert pool.kv_used(0) == 0
    with pytest.raises(ValueError, match="never fit"):
        pool.start(math.inf, 0, "large", slice(0, 1), prompt_tokens=10)


def test_data_parallel_ranks_wait_for_the_slowest():
    ids = one_layer([0, 1], [2, 3], [0, 0])
    pool = DecodePool(ids, 4, [Engine(EXPERT, ranks=2), Engine(EXPERT)])
    pool.start(0.0, 0, "two experts", slice(0, 1), output_tokens=2)
    pool.start(0.0, 1, "one", slice(2, 3), output_tokens=2)
    pool.start(0.0, 2, "another engine", slice(2, 3), output_tokens=2)
    pool.start(0.5, 1, "joins both ranks' next step", slice(1, 2), output_tokens=1)
    assert ended(pool) == {
        "two experts": (2.0, 5.0),
        "one": (2.0, 5.0),  # its own rank reads 1 and then 3 experts; the first step took 2
        "another engine": (1.0, 2.0),
        "joins both ranks' next step": (5.0, 5.0),
    }
    assert pool.recent(0).active_experts == 2.0
    assert pool.recent(1).active_experts == (1 + 2 * 3) / 3  # by token


def test_an_expert_costs_on_the_rank_that_holds_it():
    # Experts 0 and 1 lie on the first rank, 2 and 3 on the second, whoever's tokens use them.
    ids = np.array([[[0, 1], [0, 2]], [[1, 2], [3, 3]]], np.uint8)  # two tokens, two layers
    pool = DecodePool(ids, 4, [Engine(EXPERT, ranks=2, expert_parallel=True)])
    pool.start(0.0, 0, "a", slice(0, 1))
    pool.start(0.0, 1, "b", slice(1, 2))
    # Layer 0: {0, 1} and {2}, so 2 s; layer 1: {0} and {2, 3}, so 2 s.
    assert ended(pool) == {"a": (4.0, 4.0), "b": (4.0, 4.0)}
    assert pool.statistics().active_experts == 3.0  # all that the engine reads, per layer


def test_engines_may_differ():
    slow = StepCost("slow", per_layer_us=2e6, per_expert_us=0.0)
    pool = DecodePool(one_layer([0]), 4, [Engine(SECOND), Engine(slow)])
    for worker in range(2):
        pool.start(0.0, worker, worker, slice(0, 1), output_tokens=3)
    assert ended(pool) == {0: (1.0, 3.0), 1: (2.0, 6.0)}


def test_an_engine_must_hold_something():
    for wrong in ({"ranks": 0}, {"max_running": 0}, {"kv_tokens": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Engine(SECOND, **wrong)


@pytest.mark.parametrize("experts", [1, 8, 64, 65, 200])
def test_sets_hold_exactly_their_experts(experts):
    ids = np.random.default_rng(0).integers(0, experts, (20, 3, 4))
    sets = expert_sets(ids, experts)
    for token in range(20):
        for layer in range(3):
            held = {e for e in range(experts) if sets[token, layer, e // 64] >> (e % 64) & 1}
            assert held == set(ids[token, layer].tolist())
            assert sum(map(count_bits, sets[token, layer])) == len(held)


def test_ranks_share_experts_out():
    shards = shard_sets(130, 4)
    sizes = [sum(map(count_bits, shard)) for shard in shards]
    assert sizes == [33, 33, 32, 32]
    assert np.bitwise_or.reduce(shards).tolist() == [2**64 - 1, 2**64 - 1, 3]
