"""Are the two weights in `marginal-cost` overfitted to the recordings at hand?

    python -m benchmarks.policies.policy_constants [--seeds N]

Each recording is split into halves, and each half is driven alone, at half of the cells' rates,
with a partition fitted on the other. The best on one half of several weights of *later*, the cost
to future requests, and of several values of `tail` is compared with the shipped values on the
*other* half: if it is much better there, better values were missed; if much worse, such choices are
chance.

Prints mean and p99 TPOT against `locality-band`, averaged over the cells, and writes
build/bench/policy_constants.json.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.policies.cells import CELLS, Cell, How, study_of
from benchmarks.policies.goals import BAND, MEAN, P99
from benchmarks.policies.policy_parts import STDERR, OtherParts
from benchmarks.shared_data import need_recordings
from benchmarks.written import written
from eldr_service.fitting import fit_partition
from eldr_service.lab.simulation.simulate import MODEL, simulate
from eldr_service.lab.simulation.study import log_to_stderr
from eldr_service.policies.batches import Batches
from eldr_service.policies.expert_prediction import ExpertPrediction
from eldr_service.policies.marginal_cost import MarginalCost, MarginalCostParameters
from eldr_service.policies.policy import Policy
from eldr_service.policies.registry import create

SHIPPED = (1.0, MarginalCostParameters().tail)
LATERS, TAILS = (0.0, 0.5, 1.0, 2.0), (0.0, 0.05, 0.1, 0.3)
VALUES = tuple(
    dict.fromkeys([*((w, SHIPPED[1]) for w in LATERS), *((SHIPPED[0], t) for t in TAILS)])
)
Values = tuple[float, float]


def weighed(later: float, tail: float) -> MarginalCost:
    """With another weight of the cost to future requests, which a user cannot set."""

    class Weighed(Batches):
        def growth_at_mean(self, rows: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
            return later * super().growth_at_mean(rows, probabilities)

    policy = MarginalCost(MarginalCostParameters(tail=tail))
    policy.experts = OtherParts(Weighed, ExpertPrediction)
    return policy


def run(cell: Cell, seed: int, half: int) -> dict[Values, tuple[float, float]]:
    """Values -> relative change of mean and p99 TPOT against the band, on one half."""
    study = study_of(replace(cell, rate=cell.rate / 2), (), How())
    workload = study.workload(seed)
    if half:
        workload = replace(workload, fitted=workload.driven, driven=workload.fitted)
    counts, geometry = workload.recording.prefill_counts(), workload.recording.geometry
    partition = fit_partition(
        MODEL, counts[workload.fitted], geometry, n_clusters=cell.workers, random_state=seed
    )

    def figures(policy: Policy) -> np.ndarray:
        found = simulate(workload, policy, study.deployment, partition).figures()
        return np.array([found[MEAN], found[P99]])

    band = figures(create(BAND, {}))
    found: dict[Values, tuple[float, float]] = {}
    for values in VALUES:
        mean, p99 = (figures(weighed(*values)) / band - 1).tolist()
        found[values] = mean, p99
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.policies.policy_constants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    need_recordings()
    tasks = list(product(CELLS, range(options.seeds), (0, 1)))
    with ProcessPoolExecutor(options.jobs, initializer=log_to_stderr) as pool:
        runs = pool.map(run, *zip(*tasks, strict=True))
        found = dict(zip(tasks, track(runs, "simulating", len(tasks), console=STDERR), strict=True))

    def average(values: Values, seed: int, half: int) -> np.ndarray:
        return np.mean([found[cell, seed, half][values] for cell in CELLS], axis=0)

    folds = list(product(range(options.seeds), (0, 1)))
    table = Table("LATER", "TAIL", "mean", "p99", title="against locality-band, all cells")
    for values in VALUES:
        mean, p99 = np.mean([average(values, *fold) for fold in folds], axis=0)
        name = "  (shipped)" if values == SHIPPED else ""
        table.add_row(f"{values[0]:g}", f"{values[1]:g}{name}", f"{mean:+.1%}", f"{p99:+.1%}")
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    lines, document = Table("CHOSEN BY", "", "mean", "p99", title="on the half not chosen on"), {}
    for figure, by in enumerate(("mean", "p99")):
        chosen = [
            average(min(VALUES, key=lambda v: average(v, seed, half)[figure]), seed, 1 - half)
            for seed, half in folds
        ]
        shipped = [average(SHIPPED, seed, 1 - half) for seed, half in folds]
        for name, of_fold in (("chosen", chosen), ("shipped", shipped)):
            mean, p99 = np.mean(of_fold, axis=0).tolist()
            lines.add_row(by, name, f"{mean:+.2%}", f"{p99:+.2%}")
            document[f"{name} by {by}"] = {"mean": mean, "p99": p99}
    console.print(lines)
    values = {
        f"later {w:g}, tail {t:g}": [average((w, t), *fold).tolist() for fold in folds]
        for w, t in VALUES
    }
    written("policy_constants", {"seeds": options.seeds, "other half": document, "values": values})


if __name__ == "__main__":
    main()
