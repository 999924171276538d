"""A short simulation of four workers, for tests that change one thing in it."""

from dataclasses import replace

from eldr_service.fitting import fit_partition
from eldr_service.lab.simulation.cost import built_in_costs
from eldr_service.lab.simulation.deployment import Deployment
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


def run(policy, deployment=ONE, **changed):
    return simulate(WORKLOAD, create(policy, {}), replace(deployment, **changed), PARTITION)


def assert_same(one, other):
    assert one.worker.tolist() == other.worker.tolist()
    assert one.end_s.tolist() == other.end_s.tolist()
    assert one.reasons == other.reasons
    assert one.figures() == other.figures()
