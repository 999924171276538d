"""Decisions of several replicas with late views of each other, beside one that sees everything.

Requests go to three replicas in turn. What the others book, end and hear from workers reaches a
replica's view 0, 10 or 100 ms later; whether a worker has room is checked against its true state,
and a request that lost its place is decided again. Cells are as in `cells`: synthetic routing
always, with room for all requests and with so little that workers are full at times; the public
recordings if ../shared/data is present.

    python -m benchmarks.policies.replicas [--seeds N] [--replicas N] [--only TEXT]

Prints each figure's change against one replica, with 95% intervals from paired seeds, and writes
build/bench/replicas.json. The goal is an imbalance within 5% of one replica's at 10 ms.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.policies.cells import CELLS, Cell, How, study_of
from benchmarks.policies.goals import Judged
from benchmarks.shared_data import ACTIVATIONS
from benchmarks.written import written
from eldr_service.lab.simulation.comparison import interval
from eldr_service.lab.simulation.study import Run, Study, log_to_stderr, run_studies, steps
from eldr_service.lab.simulation.synthetic import SyntheticRouting

POLICIES = ("locality-band", "marginal-cost", "join-shortest-queue", "power-of-two-choices")
DELAYS_S = (0.0, 0.01, 0.1)
FIGURES = ("active_experts", "tpot_ms.p50", "tpot_ms.p99", "load_imbalance")
GOAL_S, GOAL = 0.01, 0.05
SYNTHETIC = Cell("synthetic", "gpt-oss-120b-h200", 16, 300)
FEW_PLACES = 8  # per worker, of which six to seven are taken on average
REAL = [cell for cell in CELLS if (cell.workers, cell.rate) in ((16, 250), (16, 300))]


def studies(folder: Path, how: How) -> dict[str, Study]:
    """Studies by name, each with one replica."""
    path = folder / "synthetic.npz"
    SyntheticRouting(requests=512).generate().save(path)
    base = replace(study_of(SYNTHETIC, (), how), activations=path, policies=POLICIES)
    few = replace(base.deployment, capacity=FEW_PLACES)
    found = {
        str(SYNTHETIC): base,
        f"{SYNTHETIC}, {FEW_PLACES} places each": replace(base, deployment=few),
    }
    for cell in REAL if ACTIVATIONS.is_dir() else ():
        found[str(cell)] = replace(study_of(cell, (), how), policies=POLICIES)
    return found


def changes(runs: Sequence[Run], one: Sequence[Run]) -> dict[str, Any]:
    """Each figure's change against one replica, and the share of requests decided again."""
    found: dict[str, Any] = {}
    for name in FIGURES:
        ours, alone = (np.array([run.figures[name] for run in each]) for each in (runs, one))
        relative = ours / alone - 1
        found[name] = Judged(float(relative.mean()), interval(relative), GOAL)
    again = [run.figures["decided_again"] / run.figures["requests"] for run in runs]
    return found | {"decided_again": float(np.mean(again))}


def means(runs: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, float]]:
    """One replica's own figures."""
    return {
        policy: {name: float(np.mean([run.figures[name] for run in each])) for name in FIGURES}
        for policy, each in runs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.policies.replicas", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--duration", type=float, default=10.0, help="seconds of arrivals")
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--only", default="", metavar="TEXT", help="cells with this in their names")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    log_to_stderr()
    columns = (*(name.removeprefix("tpot_ms.") for name in FIGURES), "AGAIN", "GOAL")
    table = Table("CELL", "VIEWS", "POLICY", *columns, title="Change against one replica")
    document: dict[str, Any] = {"replicas": options.replicas, "seeds": options.seeds, "cells": {}}
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        how = How(options.seeds, options.duration)
        cells = {k: v for k, v in studies(Path(folder), how).items() if options.only in k}
        total = (1 + len(DELAYS_S)) * sum(map(steps, cells.values()))
        task = progress.add_task("simulating", total=total)
        for cell, study in cells.items():
            late = [
                replace(study.deployment, replicas=options.replicas, view_delay_s=delay)
                for delay in DELAYS_S
            ]
            both = [study, *(replace(study, deployment=deployment) for deployment in late)]
            one, *others = run_studies(both, options.jobs, lambda: progress.advance(task))
            document["cells"][cell] = {"one replica": means(one)}
            for delay, runs in zip(DELAYS_S, others, strict=True):
                views = f"{1e3 * delay:g} ms"
                for policy in POLICIES:
                    found = changes(runs[policy], one[policy])
                    shown = [str(found[name]) for name in FIGURES]
                    verdict = found["load_imbalance"].verdict if delay == GOAL_S else ""
                    again = f"{found['decided_again']:.2%}"
                    table.add_row(cell, views, policy, *shown, again, verdict)
                    kept = {k: asdict(v) if k in FIGURES else v for k, v in found.items()}
                    document["cells"][cell].setdefault(views, {})[policy] = kept
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    written("replicas", document)


if __name__ == "__main__":
    main()
