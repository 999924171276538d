"""Simulated replicas: with views that are never late they are one router, else they are not."""

from dataclasses import replace

import numpy as np
import pytest
from small_simulation import ONE, assert_same, run

from eldr_service.lab.simulation.deployment import Delay

POLICIES = ("join-shortest-queue", "power-of-two-choices", "locality-band", "marginal-cost")
FEW = 12
EARLY = {"prefill": Delay(0.01, 1e-4), "place_at": 0.5, "chunk_tokens": 8}


@pytest.mark.parametrize("around", [{}, {"capacity": FEW}, EARLY], ids=["", "full", "early"])
@pytest.mark.parametrize("policy", POLICIES)
def test_with_views_at_once_three_decide_as_one(policy, around):
    one = run(policy, **around)
    assert_same(one, run(policy, **around, replicas=3))
    assert ("capacity" in around) == (one.refused > 0)


@pytest.mark.parametrize("policy", POLICIES)
def test_one_is_never_late(policy):
    assert_same(run(policy), run(policy, view_delay_s=0.1))


@pytest.mark.parametrize("policy", POLICIES)
def test_replicas_that_hear_late_balance_as_one(policy):
    one, late = run(policy), run(policy, replicas=3, view_delay_s=0.01)
    assert late.decided_again > 0
    assert late.worker.tolist() != one.worker.tolist()
    assert late.load_imbalance < 1.1 * one.load_imbalance


def test_no_worker_gets_more_than_it_takes_from_all_together():
    result = run("locality-band", capacity=FEW, replicas=3, view_delay_s=0.01)
    assert result.decided_again > 0
    times = np.concatenate([result.placed_s, result.end_s])
    order = np.lexsort((np.repeat([1, -1], len(result.worker)), times))  # ends first
    for worker in range(4):
        its = np.tile(result.worker == worker, 2) * np.repeat([1, -1], len(result.worker))
        assert its[order].cumsum().max() == FEW


@pytest.mark.parametrize(
    ("field", "value"), [("replicas", 0), ("view_delay_s", -0.1), ("view_delay_s", float("inf"))]
)
def test_what_makes_no_sense_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        replace(ONE, **{field: value})
