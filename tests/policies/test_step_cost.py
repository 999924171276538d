"""Costs learned from reports: synthetic ones have known costs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eldr_service.core.worker import LoadReport
from eldr_service.policies.step_cost import PRIOR, LearnedStepCost


def feed(cost, rng, true, reports=400, speeds=(1.0,), noise=0.0):
    for n in range(reports):
        worker = n % len(speeds)
        batch = rng.uniform(1, 60)
        active = 32 * (1 - rng.uniform(0.85, 0.97) ** batch)
        seconds = speeds[worker] * (true @ [1, active, batch]) * (1 + noise * rng.normal())
        report = LoadReport(1, n, active_experts=active, batch_size=batch, step_seconds=seconds)
        cost.learn(f"w{worker}", report)


@pytest.mark.parametrize("true", [[9e-4, 1.2e-4, 0], [2e-4, 2e-5, 1e-5], [5e-3, 1e-3, 1e-4]])
def test_converges_where_batches_vary(true):
    cost = LearnedStepCost()
    feed(cost, np.random.default_rng(0), np.array(true), noise=0.02)
    found = cost.coefficients
    for active, batch in ((5.0, 2.0), (20.0, 20.0), (30.0, 50.0)):
        expected = np.array(true) @ [1, active, batch]
        given = found.fixed + found.expert * active + found.sequence * batch
        assert given == pytest.approx(expected, rel=0.1)
    assert found.expert == pytest.approx(true[1], rel=0.35)


def test_is_the_prior_before_reports_and_where_they_say_nothing():
    cost = LearnedStepCost()
    for active, batch, seconds in ((0, 4, 0.1), (3, 0, 0.1), (3, 4, 0), (np.inf, 4, 0.1)):
        report = LoadReport(1, 1, active_experts=active, batch_size=batch, step_seconds=seconds)
        cost.learn("w", report)
    found = cost.coefficients
    np.testing.assert_array_equal((found.fixed, found.expert, found.sequence), PRIOR)
    assert cost.speeds(["w", "another"]).tolist() == [1.0, 1.0]


def test_one_report_gives_the_priors_ratios_its_scale():
    cost = LearnedStepCost()
    cost.learn("w", LoadReport(1, 1, active_experts=12, batch_size=10, step_seconds=0.021))
    found = np.array(
        [cost.coefficients.fixed, cost.coefficients.expert, cost.coefficients.sequence]
    )
    np.testing.assert_allclose(found, PRIOR * 1e-3, rtol=1e-6)


@pytest.mark.parametrize("reports", [60, 2_000])
def test_slow_workers_are_soon_told_from_fast_ones(reports):
    cost = LearnedStepCost()
    feed(cost, np.random.default_rng(1), np.array([1e-3, 1e-4, 1e-5]), reports, (1.0, 2.0))
    slow, fast = cost.speeds(["w1", "w0"])
    assert slow / fast == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("seed", range(10))
def test_noise_is_not_taken_for_a_worker_s_speed(seed):
    """Engines that share processors report steps that differ by a quarter for no reason."""
    cost, names = LearnedStepCost(), [f"w{i}" for i in range(8)]
    rng = np.random.default_rng(seed)
    for _ in range(40):
        feed(cost, rng, np.array([1e-3, 1e-4, 1e-5]), 8, (1.0,) * 8, noise=0.25)
        assert abs(cost.speeds(tuple(names)) - 1).max() < 0.2
    assert abs(cost.speeds(names) - 1).max() < 0.05


def test_small_differences_between_workers_do_not_count():
    cost = LearnedStepCost()
    feed(cost, np.random.default_rng(1), np.array([1e-3, 1e-4, 1e-5]), 2_000, (0.97, 1.03))
    assert cost.speeds(["w0", "w1"]).tolist() == [1.0, 1.0]


def test_a_new_life_begins_even():
    cost = LearnedStepCost()
    feed(cost, np.random.default_rng(1), np.array([1e-3, 1e-4, 1e-5]), 2_000, (1.0, 2.0))
    found = cost.coefficients
    seconds = found.fixed + 9 * found.expert + 9 * found.sequence
    cost.learn("w1", LoadReport(2, 1, active_experts=9, batch_size=9, step_seconds=seconds))
    assert cost.speeds(["w1"])[0] == pytest.approx(1.0, abs=0.01)


extremes = st.sampled_from([0.0, 5e-324, 1e-300, 1e-9, 1e-3, 1.0, 64.0, 1e9])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(extremes, extremes, extremes), min_size=1, max_size=12))
def test_costs_stay_positive_whatever_is_reported(reports):
    cost = LearnedStepCost()
    for n, (active, batch, seconds) in enumerate(reports):
        report = LoadReport(1, n, active_experts=active, batch_size=batch, step_seconds=seconds)
        cost.learn(f"w{n % 3}", report)
        found = cost.coefficients
        assert 0 <= found.fixed < np.inf
        assert 0 < found.expert < np.inf
        assert 0 < found.sequence < np.inf
        assert np.isfinite(cost.speeds(["w0", "w1", "w2"])).all()
