"""`marginal-cost`: its rule against a plain statement, its state against a rebuild."""

import numpy as np
import pytest
from expert_bookings import EXPERTS, LAYERS, TOP_K, booked, counts
from fleet_snapshot import request, snapshot
from price_reference import prices

from eldr_service.core.ends import Ended
from eldr_service.core.errors import InvalidArgumentError
from eldr_service.core.worker import LoadReport
from eldr_service.policies.marginal_cost import MarginalCost, MarginalCostParameters
from eldr_service.policies.registry import create


def added(use):
    """What each expert adds to a batch's sum."""
    groups = use.data[48:].astype(np.int32).reshape(-1, 3) @ [1, 1 << 8, 1 << 16]
    ranges = (groups[:, None] >> 3 * np.arange(8)) & 7
    return use.data[:16].view(np.uint16).astype(np.int32)[ranges.ravel()[: LAYERS * EXPERTS]]


def asked(prefill, number=0, **fields):
    return request(number, counts=prefill, top_k=TOP_K, coverage=1.0, **fields)


def history(policy, rng, fleet, steps=120):
    """Random bookings and ends; returns the living ones."""
    living = []
    for step in range(steps):
        if living and rng.random() < 0.4:
            gone = living.pop(rng.integers(len(living)))
            how = rng.choice([Ended.RELEASED, Ended.EXPIRED, Ended.WORKER_GONE])
            gone.output_tokens = 50
            gone.decode_counts = counts(rng, 50) if rng.random() < 0.7 else None
            policy.on_ended(gone, how)
        else:
            worker = int(rng.integers(len(fleet.rows)))
            prefill = counts(rng) if rng.random() < 0.9 else None
            living.append(
                booked(fleet, worker, f"r{step}", prefill, num_sequences=int(rng.integers(1, 3)))
            )
            policy.on_booked(living[-1])
    return living


def reports(policy, fleet, rng, fixed, expert, sequence, speed, number=40):
    """Workers that report a step time of exactly these costs."""
    for n in range(number):
        for worker, name in enumerate(fleet.worker_ids):
            batch = float(rng.uniform(1, 30))
            active = EXPERTS * (1 - rng.uniform(0.8, 0.97) ** batch)
            seconds = speed[worker] * (fixed + expert * active + sequence * batch)
            policy.on_reported(
                name,
                LoadReport(1, n, active_experts=active, batch_size=batch, step_seconds=seconds),
            )


@pytest.mark.parametrize("seed", range(30))
def test_price_is_the_plain_statements(seed):
    rng = np.random.default_rng(seed)
    policy = MarginalCost(MarginalCostParameters(tail=float(rng.choice([0.0, 0.1, 5.0]))))
    n = int(rng.integers(1, 7))
    empty = snapshot(np.zeros(n, int))
    living = history(policy, rng, empty)
    if seed % 2:
        reports(policy, empty, rng, 1e-3, 2e-4, 1e-5, np.ones(n))
    on_worker = [[b for b in living if b.row == row] for row in empty.rows]
    eligible = rng.random(n) < 0.8
    eligible[rng.integers(n)] = True
    fleet = snapshot(
        [sum(b.num_sequences for b in bs) + int(rng.integers(3)) for bs in on_worker],
        np.full(n, 1_000),
        eligible,
    )
    prefill = counts(rng)
    expected_tokens = int(rng.choice([0, 80]))
    saved = 0.0
    if seed % 3:
        fleet = fleet._replace(cached_tokens=rng.integers(0, 5_000, n))
        if seed % 2:  # the cost is in seconds
            saved = fleet.cached_tokens * 2e-6 / (expected_tokens or policy.remaining.mean_tokens)
    decision = policy.pick(asked(prefill, expected_output_tokens=expected_tokens), fleet)

    shape = (LAYERS, EXPERTS)
    held = policy.experts.known.held
    uses = [
        [(1 - np.exp(added(held[b.key]).reshape(shape) / -2048.0), b.num_sequences) for b in bs]
        for bs in on_worker
    ]
    plain, weight = policy.remaining.by_row(int(fleet.rows.max()) + 1)
    weights = weight[fleet.rows] + fleet.sequences - plain[fleet.rows]
    cost = policy.cost.coefficients
    at_mean = policy.experts.known.batches._unused_at_mean[fleet.rows] / 127
    expected = prices(
        fleet,
        uses,
        policy.experts.known.prediction.predict(prefill).reshape(shape),
        at_mean.reshape(-1, *shape),
        weights,
        (cost.fixed, cost.expert, cost.sequence),
        policy.cost.speeds(fleet.worker_ids),
        policy.parameters.tail,
        saved,
    )
    np.testing.assert_array_equal(decision.in_band, np.isfinite(expected))
    # What is unused is kept in 127ths: where two cost the same to a thousandth, either is right.
    assert expected[decision.worker] == pytest.approx(expected.min(), rel=1e-3)
    np.testing.assert_allclose(
        decision.cost[decision.in_band], expected[decision.in_band], rtol=2e-3
    )


@pytest.mark.parametrize("seed", range(5))
def test_batches_are_what_a_rebuild_gives_after_any_bookings_and_ends(seed):
    rng = np.random.default_rng(seed)
    policy, fleet = MarginalCost(), snapshot([0, 0, 0, 0])
    living = history(policy, rng, fleet, 300)
    batches, held = policy.experts.known.batches, policy.experts.known.held
    sums = np.zeros_like(batches._sums)
    for b in living:
        if b.key in held:  # else it came before anything was known of experts
            sums[b.row] += b.num_sequences * added(held[b.key])
    np.testing.assert_array_equal(batches._sums, sums)
    unused = np.exp(-sums / 2048.0)
    np.testing.assert_allclose(batches._unused, 127 * unused, atol=0.5001)
    active = (1 - unused).sum(axis=1)
    np.testing.assert_allclose(batches.active(fleet.rows), active[fleet.rows], atol=1e-3)

    for b in living:
        policy.on_ended(b, Ended.WORKER_GONE)
    assert not batches._sums.any()
    assert not held
    assert (batches.active(fleet.rows) == 0).all()
    booked_left, weight = policy.remaining.by_row(int(fleet.rows.max()) + 1)
    assert not booked_left.any()
    assert not weight.any()


def test_a_batch_at_the_mean_size_is_one_like_it_of_as_many_as_rows_hold_on_average():
    policy, fleet = MarginalCost(), snapshot([0, 0, 0, 0])
    living = history(policy, np.random.default_rng(1), fleet, 100)
    batches = policy.experts.known.batches
    last = booked(fleet, 2, "last", counts(np.random.default_rng(2)))
    policy.on_booked(last)
    held = [policy.experts.known.held[b.key] for b in [*living, last] if b.row == fleet.rows[2]]
    on_rows = np.bincount(
        [b.row for b in [*living, last]], [b.num_sequences for b in [*living, last]]
    )
    resized = on_rows[on_rows > 0].mean() / on_rows[fleet.rows[2]]
    sums = sum(
        b.num_sequences * added(use)
        for b, use in zip([b for b in [*living, last] if b.row == fleet.rows[2]], held, strict=True)
    )
    expected = 127 * np.exp(-sums * resized / 2048.0)
    np.testing.assert_allclose(batches._unused_at_mean[fleet.rows[2]], expected, atol=0.52)


def test_a_request_leaves_a_fuller_worker_to_its_own_kind():
    """More requests cover more experts by chance; that must not draw others there."""
    policy, fleet = MarginalCost(MarginalCostParameters(tail=10)), snapshot([6, 2])
    mine, others = np.zeros((2, LAYERS, EXPERTS), np.uint32)
    mine[:, :8] = 25
    others[:, 4:12] = 25  # half of them mine
    for i in range(6):
        policy.on_booked(booked(fleet, 0, f"a{i}", others))
    for i in range(2):
        policy.on_booked(booked(fleet, 1, f"b{i}", mine))
    assert policy.pick(asked(mine), fleet).worker == 1


def test_same_history_same_decisions_and_pick_changes_nothing():
    decisions = []
    for times in (1, 3):
        rng = np.random.default_rng(5)
        policy, fleet = MarginalCost(), snapshot([3, 1, 4, 1])
        seen = []
        for _ in range(20):
            history(policy, rng, fleet, 10)
            prefill = counts(rng)
            for _ in range(times):
                decision = policy.pick(asked(prefill), fleet)
            seen.append((decision.worker, decision.predicted_active_experts.tolist()))
        decisions.append(seen)
    assert decisions[0] == decisions[1]


def test_goes_to_the_worker_that_uses_its_experts_already():
    policy, fleet = MarginalCost(), snapshot([3, 3])
    mine, others = np.zeros((2, LAYERS, EXPERTS), np.uint32)
    mine[:, :2] = others[:, 8:10] = 100
    for i in range(3):
        policy.on_booked(booked(fleet, 0, f"a{i}", others))
        policy.on_booked(booked(fleet, 1, f"b{i}", mine))
    decision = policy.pick(asked(mine), fleet)
    assert decision.worker == 1
    assert decision.predicted_active_experts[1] < decision.predicted_active_experts[0]
    assert policy.pick(asked(others), fleet).worker == 0


def test_load_decides_where_experts_do_not():
    policy, fleet = MarginalCost(), snapshot([2, 1, 2])
    even = np.full((LAYERS, EXPERTS), 50, np.uint32)
    for name, worker in (("a", 0), ("b", 0), ("c", 1), ("d", 2), ("e", 2)):
        policy.on_booked(booked(fleet, worker, name, even))
    assert policy.pick(asked(even), fleet).worker == 1


def test_those_about_to_end_weigh_less():
    policy, fleet = MarginalCost(), snapshot([0, 0])
    alike = np.full((LAYERS, EXPERTS), 50, np.uint32)
    lives = []
    for i in range(40):  # each lives for ten bookings
        lives.append(booked(fleet, i % 2, f"r{i}", alike))
        policy.on_booked(lives[-1])
        if i >= 10:
            policy.on_ended(lives[i - 10], Ended.RELEASED)
    for b in lives[30:]:
        policy.on_ended(b, Ended.EXPIRED)
    for name, worker in (("old", 1), ("young", 0)):
        policy.on_booked(booked(fleet, worker, name, alike))
        for i in range(4):
            passing = booked(fleet, 0, f"{name}{i}", alike)
            policy.on_booked(passing)
            policy.on_ended(passing, Ended.EXPIRED)
    assert policy.pick(asked(alike), snapshot([1, 1])).worker == 1


def test_a_prefill_without_any_other_signal_is_enough():
    policy, fleet = MarginalCost(), snapshot([0, 5, 0])
    decision = policy.pick(asked(counts(np.random.default_rng(0))), fleet)
    assert decision.worker == 0
    assert np.isnan(decision.similarity).all()


def test_bookings_without_counts_weigh_as_the_mean_request():
    policy, fleet = MarginalCost(), snapshot([2, 1])
    rng = np.random.default_rng(2)
    early = booked(fleet, 0, "early", None)
    policy.on_booked(early)  # nothing is known of experts yet
    policy.on_booked(booked(fleet, 1, "known", counts(rng)))
    late = booked(fleet, 0, "late", None)
    policy.on_booked(late)
    assert policy.experts.known.batches.active(fleet.rows)[0] == pytest.approx(
        policy.experts.known.prediction.predict(None).sum(), rel=0.01
    )
    for b in (early, late):
        policy.on_ended(b, Ended.RELEASED)
    assert policy.experts.known.batches.active(fleet.rows)[0] == 0


def test_another_geometry_begins_anew():
    policy, fleet = MarginalCost(), snapshot([0, 0])
    rng = np.random.default_rng(3)
    old = booked(fleet, 0, "old", counts(rng))
    policy.on_booked(old)
    wider = np.ones((LAYERS, 2 * EXPERTS), np.uint32)
    policy.on_booked(booked(fleet, 1, "new", wider))
    policy.on_ended(old, Ended.RELEASED)
    assert policy.experts.known.prediction.shape == wider.shape
    assert list(policy.experts.known.held) == [("new", 0)]
    assert policy.pick(asked(wider), fleet).worker in (0, 1)


def holding(tokens, transfer_us=2.0, reported=True):
    """A policy of two workers alike but for what they hold of the prompt, and their fleet."""
    policy = MarginalCost(MarginalCostParameters(token_transfer_us=transfer_us))
    fleet = snapshot([1, 1])._replace(cached_tokens=np.array(tokens))
    even = np.full((LAYERS, EXPERTS), 50, np.uint32)
    for worker in (0, 1):
        policy.on_booked(booked(fleet, worker, f"r{worker}", even))
    if reported:
        reports(policy, fleet, np.random.default_rng(0), 1e-3, 2e-4, 1e-5, np.ones(2))
    return policy, fleet, asked(even)


def test_of_workers_alike_the_one_that_holds_more_of_the_prompt_is_taken():
    policy, fleet, request = holding([100, 1_000])
    decision = policy.pick(request, fleet)
    assert decision.worker == 1
    plain = policy.pick(request, fleet._replace(cached_tokens=None))
    assert plain.worker == 0
    # 256 output tokens, as nothing said how many there are
    np.testing.assert_allclose(plain.cost - decision.cost, [2e-4 / 256, 2e-3 / 256])
    why = policy.explain(request, fleet, decision)
    assert why.endswith("for 1,000 prompt tokens it already holds)")


@pytest.mark.parametrize("how", [{"transfer_us": 0.0}, {"reported": False}])
def test_what_workers_hold_counts_for_nothing_without_its_price_or_unit(how):
    policy, fleet, request = holding([100, 1_000], **how)
    decision = policy.pick(request, fleet)
    assert decision.worker == 0
    assert "it already holds" not in policy.explain(request, fleet, decision)


def test_what_a_worker_holds_does_not_lengthen_steps_beyond_the_tail():
    policy, fleet, request = holding([0, 100_000])
    for i in range(40):
        policy.on_booked(booked(fleet, 1, f"more{i}", request.counts))
    fleet = fleet._replace(sequences=np.array([1, 200]))
    assert policy.pick(request, fleet).worker == 0


@pytest.mark.parametrize(
    ("parameter", "value"), [("tail", "-0.1"), ("tail", "much"), ("tau", "0.1"), ("load", "cups")]
)
def test_wrong_parameters_are_named(parameter, value):
    with pytest.raises(InvalidArgumentError, match=parameter):
        create("marginal-cost", {parameter: value})
