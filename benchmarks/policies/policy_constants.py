"""Were the two constants of `marginal-cost` chosen too well for the recordings at hand?

    python -m benchmarks.policies.policy_constants [--seeds N]

Each recording is cut into two halves, and each half is driven alone, at half of the cells' rates,
with a partition fitted on the other. The best of several values of `PARTING` and of `tail` on one
half is set beside the shipped ones on the *other*: were it much better there, better values would
have been missed; were it much worse, such choices would be chance.

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

from benchmarks.policies.cells import Cell, How, study_of
from benchmarks.policies.goals import BAND, MEAN, P99
from benchmarks.policies.policy_parts import ALL_CELLS, STDERR, partition_of
from benchmarks.shared_data import need_recordings
from benchmarks.written import written
from eldr_service.lab.simulation.simulate import simulate
from eldr_service.lab.simulation.study import log_to_stderr
from eldr_service.policies import marginal_cost
from eldr_service.policies.marginal_cost import PARTING, MarginalCost, MarginalCostParameters
from eldr_service.policies.registry import create

SHIPPED = (PARTING, MarginalCostParameters().tail)
PARTINGS, TAILS = (0.0, 0.15, 0.3, 0.6), (0.0, 0.05, 0.1, 0.3)
VALUES = tuple(
    dict.fromkeys([*((p, SHIPPED[1]) for p in PARTINGS), *((SHIPPED[0], t) for t in TAILS)])
)
Values = tuple[float, float]


def run(cell: Cell, seed: int, half: int) -> dict[Values, tuple[float, float]]:
    """Values -> relative change of mean and p99 TPOT against the band, on one half."""
    study = study_of(replace(cell, rate=cell.rate / 2), (), How(drive_all=False))
    workload = study.workload(seed)
    if half:
        workload = replace(workload, fitted=workload.driven, driven=workload.fitted)
    partition = partition_of(workload, cell.workers, seed)

    def figures(policy: marginal_cost.Policy) -> np.ndarray:
        found = simulate(workload, policy, study.deployment, partition).figures()
        return np.array([found[MEAN], found[P99]])

    band = figures(create(BAND, {}))
    found: dict[Values, tuple[float, float]] = {}
    for parting, tail in VALUES:
        marginal_cost.PARTING = parting  # what a user cannot set
        priced = figures(MarginalCost(MarginalCostParameters(tail=tail)))
        mean, p99 = (priced / band - 1).tolist()
        found[parting, tail] = mean, p99
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
    tasks = list(product(ALL_CELLS, range(options.seeds), (0, 1)))
    with ProcessPoolExecutor(options.jobs, initializer=log_to_stderr) as pool:
        runs = pool.map(run, *zip(*tasks, strict=True))
        found = dict(zip(tasks, track(runs, "simulating", len(tasks), console=STDERR), strict=True))

    def average(values: Values, seed: int, half: int) -> np.ndarray:
        return np.mean([found[cell, seed, half][values] for cell in ALL_CELLS], axis=0)

    folds = list(product(range(options.seeds), (0, 1)))
    table = Table("PARTING", "TAIL", "mean", "p99", title="against locality-band, all cells")
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
        f"parting {p:g}, tail {t:g}": [average((p, t), *fold).tolist() for fold in folds]
        for p, t in VALUES
    }
    written("policy_constants", {"seeds": options.seeds, "other half": document, "values": values})


if __name__ == "__main__":
    main()
