"""Simulated replicas: with views that are never late they are one router, else they are not."""

from dataclasses import replace

import numpy as np
import pytest

from eldr_service.fitting import fit_partition
from eldr_service.lab.simulation.cost import built_in_costs
from eldr_service.lab.simulation.deployment import Delay, Deployment
from eldr_service.lab.simulation.engine import Engine
from eldr_service.lab.simulation.simulate import simulate
from eldr_service.lab.simulation.synthetic import SyntheticRouting
from eldr_service.lab.simulation.traffic import Traffic
from eldr_service.lab.simulation.workload import Workload
from eldr_service.policies.registry import create

RECORDING = SyntheticRouting(layers=3, requests=120, decode_tokens=20).generate()
ENGINES = (Engine(built_in_costs()["qwen3-30b-a3b-h200"]),) * 4
WORKLOAD = Workload.draw(RECORDING, Traffic(0.2, 3000.0, output_tokens=100), seed=3)
COUNTS = RECORDING.prefill_counts()[WORKLOAD.fitted]
PARTITION = fit_partition("m", COUNTS, RECORDING.geometry, n_clusters=4)
ONE = Deployment(ENGINES, report_interval_s=0.02, report_noise=0.1)
POLICIES = ("join-shortest-queue", "power-of-two-choices", "locality-band", "marginal-cost")
FEW = 12
EARLY = {"prefill": Delay(0.01, 1e-4), "place_at": 0.5, "chunk_tokens": 8}


def run(policy, deployment=ONE, **changed):
    return simulate(WORKLOAD, create(policy, {}), replace(deployment, **changed), PARTITION)


def assert_same(one, other):
    assert one.worker.tolist() == other.worker.tolist()
    assert one.end_s.tolist() == other.end_s.tolist()
    assert one.reasons == other.reasons
    assert one.figures() == other.figures()


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
