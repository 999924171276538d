"""DecodePool against its rules said again in plain Python, and against closed forms."""

import math
from collections import deque
from itertools import pairwise

import numpy as np
import pytest

from eldr_service.lab.simulation.cost import StepCost, built_in_costs
from eldr_service.lab.simulation.decode_pool import DecodePool
from eldr_service.lab.simulation.engine import Engine

LAYERS, TOP_K, EXPERTS = 3, 2, 8
HALF_SECOND = StepCost("half-second", per_layer_us=0.5e6 / LAYERS, per_expert_us=0.0)
EVERYTHING = StepCost("everything", per_layer_us=70e3, per_expert_us=9e3, per_sequence_us=3e3)


def recorded(tokens, seed=0, dtype=np.uint8):
    rng = np.random.default_rng(seed)
    picks = rng.random((tokens, LAYERS, EXPERTS)).argsort(axis=-1)[..., :TOP_K]
    return picks.astype(dtype)


def plain_worker(ids, cost, starts):
    """One worker's life from its (now, key, tokens): [(key, first, end, tokens)], its steps."""
    waiting, running, ended, steps, now = deque(starts), [], [], [], 0.0
    while waiting or running:
        if not running:
            now = max(now, waiting[0][0])
        while waiting and waiting[0][0] <= now:
            _, key, tokens = waiting.popleft()
            running.append({"key": key, "left": list(range(tokens.start, tokens.stop)), "at": []})
        picks = [ids[request["left"].pop(0)] for request in running]
        active = [len({int(e) for p in picks for e in p[layer]}) for layer in range(LAYERS)]
        seconds = 1e-6 * (
            LAYERS * (cost.per_layer_us + cost.per_sequence_us * len(running))
            + cost.per_expert_us * sum(active)
        )
        now += seconds
        steps.append((len(running), sum(active), seconds))
        for request in running:
            request["at"].append(now)
        ended += [
            (r["key"], r["at"][0], r["at"][-1], len(r["at"])) for r in running if not r["left"]
        ]
        running = [r for r in running if r["left"]]
    return ended, steps


def plain_imbalance(lives, workers):
    """lives: (start, end, worker). Counts who is held in the middle between any two events."""
    times = sorted({t for start, end, _ in lives for t in (start, end)})
    weighted = busy = 0.0
    for left, right in pairwise(times):
        middle = (left + right) / 2
        held = [sum(s < middle < e for s, e, w in lives if w == n) for n in range(workers)]
        if any(held):
            weighted += (right - left) * max(held) / (sum(held) / workers)
            busy += right - left
    return weighted / busy


@pytest.mark.parametrize("cost", [HALF_SECOND, EVERYTHING], ids=lambda c: c.name)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("seed", range(6))
def test_equals_the_plain_statement(seed, dtype, cost):
    rng = np.random.default_rng(seed)
    ids, workers = recorded(60, seed, dtype), 3
    pool = DecodePool(ids, EXPERTS, [Engine(cost)] * workers)
    starts, finished, now = [[] for _ in range(workers)], [], 0.0
    for key in range(70):
        now += rng.integers(0, 3) * 0.25  # a grid, so that starts meet ends of half-second steps
        first = int(rng.integers(0, 55))
        tokens = slice(first, first + int(rng.integers(1, 6)))
        worker = int(rng.integers(0, workers))
        if rng.random() < 0.6:  # or else start has to bring the pool on by itself
            finished += pool.advance(now)
        pool.start(now, worker, key, tokens)
        starts[worker].append((now, key, tokens))
    finished += pool.advance(math.inf)

    lives = [plain_worker(ids, cost, s) for s in starts]
    expected = {
        key: (worker, first, end, tokens)
        for worker, (ended, _) in enumerate(lives)
        for key, first, end, tokens in ended
    }
    found = {f.request_key: (f.worker, f.first_token_s, f.end_s, f.tokens) for f in finished}
    assert found == expected
    assert [f.request_key for f in finished] == sorted(
        expected, key=lambda key: (expected[key][2], key)
    )
    for f in finished:
        if f.tokens == 1:
            assert math.isnan(f.tpot_s)
        else:
            assert f.tpot_s == (f.end_s - f.first_token_s) / (f.tokens - 1)

    statistics = pool.statistics()
    tokens = sum(batch for _, steps in lives for batch, _, _ in steps)
    weighted = sum(batch * active for _, steps in lives for batch, active, _ in steps)
    seconds = sum(sum(batch * s for batch, _, s in steps) for _, steps in lives)
    assert statistics.tokens == tokens
    assert statistics.active_experts == weighted / (tokens * LAYERS)
    assert statistics.step_seconds == seconds / tokens
    assert statistics.tpot_s.tolist() == [f.tpot_s for f in finished if f.tokens > 1]
    started = {key: now for s in starts for now, key, _ in s}
    imbalance = plain_imbalance([(started[k], e[2], e[0]) for k, e in expected.items()], workers)
    assert statistics.load_imbalance == pytest.approx(imbalance, rel=1e-12)
    for worker, (_, steps) in enumerate(lives):
        recent = pool.recent(worker)
        made = sum(batch for batch, _, _ in steps)
        assert recent.active_experts == sum(b * a for b, a, _ in steps) / (made * LAYERS)
        assert recent.step_active_experts == sum(a for _, a, _ in steps) / (len(steps) * LAYERS)
        assert recent.batch_size == made / len(steps)
        assert recent.step_seconds == sum(s for _, _, s in steps) / len(steps)


def test_one_request_takes_a_step_a_token():
    pool = DecodePool(recorded(20), EXPERTS, [Engine(HALF_SECOND)] * 2)
    pool.start(3.0, 1, "r", slice(4, 14))
    (only,) = pool.advance(math.inf)
    assert (only.request_key, only.worker, only.tokens) == ("r", 1, 10)
    assert (only.first_token_s, only.end_s, only.tpot_s) == (3.5, 8.0, 0.5)
    statistics = pool.statistics()
    assert statistics.active_experts == TOP_K
    assert statistics.load_imbalance == 2.0  # one of two workers has everything
    assert statistics.step_seconds == 0.5


def test_copies_of_one_request_activate_what_one_does():
    pool = DecodePool(recorded(10), EXPERTS, [Engine(EVERYTHING)])
    for key in range(20):  # more than an engine has room for at first
        pool.start(0.0, 0, key, slice(0, 10))
    assert [f.request_key for f in pool.advance(math.inf)] == list(range(20))
    assert pool.statistics().active_experts == TOP_K
    assert pool.recent(0).batch_size == 20


def test_a_newcomer_joins_at_the_next_boundary():
    pool = DecodePool(recorded(10), EXPERTS, [Engine(HALF_SECOND)])
    pool.start(0.0, 0, "first", slice(0, 10))
    pool.start(0.1, 0, "during the step", slice(0, 1))
    pool.start(0.5, 0, "at its very end", slice(0, 1))
    assert pool.advance(0.75) == []
    assert pool.held(0) == 3
    ends = {f.request_key: f.end_s for f in pool.advance(1.0)}
    assert ends == {"during the step": 1.0, "at its very end": 1.0}
    assert pool.held(0) == 1


def test_recent_forgets_what_it_has_told():
    pool = DecodePool(recorded(10), EXPERTS, [Engine(HALF_SECOND)])
    assert math.isnan(pool.recent(0).batch_size)
    pool.start(0.0, 0, "a", slice(0, 4))
    pool.advance(1.0)
    assert pool.recent(0).batch_size == 1.0
    pool.start(1.0, 0, "b", slice(0, 2))
    pool.advance(2.0)
    assert pool.recent(0).batch_size == 2.0
    assert math.isnan(pool.recent(0).step_seconds)


def test_an_idle_pool_has_no_statistics():
    pool = DecodePool(recorded(1), EXPERTS, [Engine(HALF_SECOND)])
    assert pool.advance(5.0) == []
    statistics = pool.statistics()
    assert statistics.tokens == 0
    assert math.isnan(statistics.active_experts)
    assert math.isnan(statistics.load_imbalance)


def test_refuses_what_makes_no_sense():
    ids = recorded(5)
    with pytest.raises(ValueError, match="num_experts = 4"):
        DecodePool(ids, 4, [Engine(HALF_SECOND)])
    with pytest.raises(ValueError, match="top_k"):
        DecodePool(ids[0], EXPERTS, [Engine(HALF_SECOND)])
    with pytest.raises(ValueError, match="at least one engine"):
        DecodePool(ids, EXPERTS, [])
    pool = DecodePool(ids, EXPERTS, [Engine(HALF_SECOND)])
    for tokens in (slice(2, 2), slice(-1, 2), slice(0, 6), slice(0, 4, 2)):
        with pytest.raises(ValueError, match="no run of tokens"):
            pool.start(0.0, 0, "r", tokens)
    for worker in (-1, 1):
        with pytest.raises(IndexError):
            pool.start(0.0, worker, "r", slice(0, 5))
    pool.advance(2.0)
    with pytest.raises(ValueError, match="before"):
        pool.advance(1.0)
    with pytest.raises(ValueError, match="before"):
        pool.start(math.nan, 0, "r", slice(0, 5))


def test_built_in_costs_are_sums_over_layers():
    alone = built_in_costs()["qwen3-30b-a3b-h200-moe-layers"]
    active = np.full(48, 40)
    assert alone.step_seconds(active, 16) == pytest.approx(48 * (19.2 + 2.2 * 40) * 1e-6)
    whole = built_in_costs()["qwen3-30b-a3b-h200"]
    fixed, layer, expert, sequence, token = whole.coefficients
    expected = fixed + 48 * (layer + expert * 40 + sequence * 16 + token * 3200)
    assert whole.step_seconds(active, 16, 3200) == pytest.approx(expected * 1e-6)
    assert EVERYTHING.step_seconds(np.array([2, 3]), 5) == pytest.approx(0.140 + 0.030 + 0.045)
    with pytest.raises(ValueError, match="free"):
        StepCost("free", per_layer_us=0.0, per_expert_us=0.0)


def test_a_moved_request_goes_on_where_it_was_and_loses_no_token():
    ids = recorded(10)
    pool = DecodePool(ids, EXPERTS, [Engine(HALF_SECOND)] * 2)
    pool.start(0.0, 0, "moved", slice(0, 6))
    pool.start(0.0, 0, "stays", slice(2, 5))
    assert pool.move(1.25, "moved", 1)  # in its third step, whose token it takes along
    assert (pool.held(0), pool.held(1)) == (1, 1)
    done = {each.request_key: each for each in pool.advance(math.inf)}
    assert (done["stays"].worker, done["stays"].end_s) == (0, 1.5)
    # Three tokens are left, by a worker that was idle.
    assert (done["moved"].worker, done["moved"].end_s) == (1, 1.25 + 3 * 0.5)
    assert done["moved"].first_token_s == 0.5
    assert done["moved"].tokens == 6


def test_a_request_that_waits_moves_as_it_is_and_one_at_its_last_token_stays():
    pool = DecodePool(recorded(10), EXPERTS, [Engine(HALF_SECOND, max_running=1)] * 2)
    pool.start(0.0, 0, "first", slice(0, 2))
    pool.start(0.0, 0, "waits", slice(2, 4))
    assert pool.move(0.25, "waits", 1)
    assert not pool.move(0.75, "first", 1)
    done = {each.request_key: each.end_s for each in pool.advance(math.inf)}
    assert done == {"first": 1.0, "waits": 1.25}
    with pytest.raises(KeyError):
        pool.move(math.inf, "first", 1)


def test_a_request_between_workers_is_in_no_batch_and_goes_on_after_its_pause():
    pool = DecodePool(recorded(10), EXPERTS, [Engine(HALF_SECOND)] * 2)
    pool.start(0.0, 0, "moved", slice(0, 6))
    left = pool.leave(1.25, "moved")
    assert left.left_s == 1.5  # when the step under way makes its third token
    assert (pool.held(0), pool.held(1)) == (0, 0)
    with pytest.raises(KeyError):
        pool.leave(1.25, "moved")
    pool.join(left.left_s + 0.75, 1, left)
    (done,) = pool.advance(math.inf)
    assert (done.worker, done.end_s, done.tokens) == (1, 2.25 + 3 * 0.5, 6)
