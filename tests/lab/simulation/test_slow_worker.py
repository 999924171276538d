"""One worker of a fleet is half as fast; reports are off by a fifth. `pytest -s` prints figures."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from eldr_service.fitting import fit_partition
from eldr_service.lab.simulation.cost import StepCost
from eldr_service.lab.simulation.deployment import Deployment
from eldr_service.lab.simulation.engine import Engine
from eldr_service.lab.simulation.simulate import simulate
from eldr_service.lab.simulation.synthetic import SyntheticRouting
from eldr_service.lab.simulation.traffic import Traffic
from eldr_service.lab.simulation.workload import Workload
from eldr_service.policies.registry import create

RECORDING = SyntheticRouting(layers=3, requests=300, decode_tokens=100).generate()
COST = StepCost("even", per_layer_us=1_000.0, per_expert_us=300.0, per_sequence_us=50.0)
WORKERS, SLOW = 8, 2
NOTICED_S = 60.0
"""By then a slow worker has been found; requests that came later are compared."""


@cache
def run(policy, slowness, relief, seed=0):
    workload = Workload.draw(RECORDING, Traffic(150.0, 40.0), seed=seed)
    counts = RECORDING.prefill_counts()[workload.fitted]
    partition = fit_partition("m", counts, RECORDING.geometry, n_clusters=WORKERS)
    times = [slowness if worker == SLOW else 1.0 for worker in range(WORKERS)]
    engines = tuple(
        Engine(
            replace(
                COST,
                per_layer_us=COST.per_layer_us * time,
                per_expert_us=COST.per_expert_us * time,
                per_sequence_us=COST.per_sequence_us * time,
            )
        )
        for time in times
    )
    made = create(policy, {})
    made.prepare()
    deployment = Deployment(engines, report_noise=0.2, relief=relief)
    return simulate(workload, made, deployment, partition)


def tpot_ms(result):
    late = result.arrival_s > NOTICED_S
    seconds = (result.end_s - result.first_token_s)[late] / (result.tokens[late] - 1)
    return 1e3 * np.percentile(seconds, 50), 1e3 * np.percentile(seconds, 99)


def share(result):
    """Of the later requests, those on the slow worker."""
    return float(np.mean(result.worker[result.arrival_s > NOTICED_S] == SLOW))


@pytest.mark.parametrize("policy", ["join-shortest-queue", "locality-band"])
def test_a_slow_worker_is_relieved(policy):
    before, after = run(policy, 2.0, 1.0), run(policy, 2.0, 4.0)
    (_, tail_before), (_, tail_after) = tpot_ms(before), tpot_ms(after)
    print(
        f"\n{policy}: p99 TPOT {tail_before:.2f} to {tail_after:.2f} ms,"
        f" share of the slow worker {share(before):.3f} to {share(after):.3f}"
    )
    assert share(after) < 0.6 * share(before)
    assert tail_after < 0.9 * tail_before


@pytest.mark.parametrize("policy", ["join-shortest-queue", "locality-band"])
def test_noise_does_no_harm_to_equal_workers(policy):
    before, after = run(policy, 1.0, 1.0), run(policy, 1.0, 4.0)
    np.testing.assert_array_equal(before.worker, after.worker)
    np.testing.assert_array_equal(before.end_s, after.end_s)


def test_marginal_cost_prices_a_pace_once():
    before, after = run("marginal-cost", 2.0, 1.0), run("marginal-cost", 2.0, 4.0)
    np.testing.assert_array_equal(before.worker, after.worker)
    assert share(before) < 1 / WORKERS
