"""Policies on real recorded routing, at loads where load-only policies are hard to beat.

A cell is a recording, a number of workers and a rate. Every request generates 256 tokens; a shorter
recorded decode is repeated. Steps cost as much as a similar model's on an H200, of which the MoE
layers were measured and the rest is derived (docs/simulation.md): --moe-only counts only the MoE
layers, --beside-experts X multiplies all but the experts' weights by X. Needs the public recordings
in ../shared/data.

    python -m benchmarks.policies.cells --policy locality-band --policy locality-band:tau=0.2

Prints each policy's change against the best of the four load-only policies and writes
build/bench/cells.json. `run_cell` is for programs.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.shared_data import ACTIVATIONS, need_recordings
from benchmarks.written import written
from eldr_service.lab.simulation.comparison import LOAD_ONLY, Change, changes, over_seeds
from eldr_service.lab.simulation.contender import BAND, PAPERS_BAND, TUNED_BAND, names
from eldr_service.lab.simulation.cost import built_in_costs
from eldr_service.lab.simulation.deployment import Deployment
from eldr_service.lab.simulation.engine import Engine
from eldr_service.lab.simulation.study import Study, load_recorded, run_study, steps
from eldr_service.lab.simulation.traffic import Traffic

OUTPUT_TOKENS = 256
SHOWN = ("tpot_ms.p50", "tpot_ms.p99", "tpot_ms.mean", "active_experts")


@dataclass(frozen=True)
class Cell:
    """A recording, its cost model, workers and arrivals per second."""

    recording: str
    cost: str
    workers: int
    rate: float

    def __str__(self) -> str:
        return f"{self.recording}, {self.workers} workers, {self.rate:g}/s"


DEEPSEEK = ("deepseek-v2-lite-tasks", "qwen3-30b-a3b-h200")
GPT_OSS = ("gpt-oss-20b-topics", "gpt-oss-120b-h200")
CELLS = (
    *(
        Cell(*DEEPSEEK, workers, rate)
        for workers, rate in ((4, 35), (4, 60), (4, 100), (8, 50), (8, 120), (16, 100), (16, 250))
    ),
    *(
        Cell(*GPT_OSS, workers, rate)
        for workers, rate in ((2, 19), (4, 38), (8, 75), (16, 60), (16, 150), (16, 300))
    ),
)


@dataclass(frozen=True)
class Outcome:
    """Each policy's figures over the seeds, and changes against the best load-only one."""

    figures: dict[str, dict[str, float]]
    changes: list[Change]


@dataclass(frozen=True)
class How:
    """How cells are run.

    Driven is the half that nothing was fitted on, or with `drive_all` both halves. A half is small,
    so some requests are copies of others in flight; the figure `copies` counts them. Unless
    `cycled`, a decode ends where its recording does, and the rate is raised accordingly.
    """

    seeds: int = 3
    duration_s: float = 20.0
    drive_all: bool = False
    moe_only: bool = False
    beside_experts: float = 1.0
    cycled: bool = True


def study_of(cell: Cell, policies: Sequence[str], how: How) -> Study:
    """The study that `run_cell` runs."""
    cost = built_in_costs()[f"{cell.cost}-moe-layers" if how.moe_only else cell.cost]
    if how.beside_experts != 1:
        cost = cost.beside_experts(how.beside_experts)
    path = ACTIVATIONS / f"{cell.recording}.npz"
    traffic = Traffic(how.duration_s, cell.rate, output_tokens=OUTPUT_TOKENS)
    if not how.cycled:
        decodes = (load_recorded(path).decode(i) for i in range(load_recorded(path).num_requests))
        recorded = float(np.mean([tokens.stop - tokens.start for tokens in decodes]))
        traffic = Traffic(how.duration_s, cell.rate * OUTPUT_TOKENS / recorded)
    return Study(
        activations=path,
        policies=tuple(dict.fromkeys((*LOAD_ONLY, *policies))),
        deployment=Deployment((Engine(cost),) * cell.workers),
        traffic=traffic,
        seeds=tuple(range(how.seeds)),
        drive_all=how.drive_all,
    )


def run_cell(
    cell: Cell,
    policies: Sequence[str],
    how: How = How(),
    jobs: int = 1,
    done: Callable[[], None] = lambda: None,
) -> Outcome:
    """Run policies and the four load-only ones in a cell."""
    runs = run_study(study_of(cell, policies, how), jobs, done)
    figures = {policy: [run.figures for run in each] for policy, each in runs.items()}
    return Outcome({p: over_seeds(each) for p, each in figures.items()}, changes(figures))


def _row(change: Change) -> str:
    low, high = change.interval or (change.relative, change.relative)
    return f"{change.relative:+.1%} ({low:+.1%} to {high:+.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.policies.cells", description=__doc__
    )
    parser.add_argument("--policy", action="append", help="default: the three bands")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of arrivals")
    parser.add_argument("--all-driven", action="store_true", help="drive the fitted half too")
    parser.add_argument("--moe-only", action="store_true", help="count only the MoE layers")
    parser.add_argument(
        "--beside-experts", type=float, default=1.0, metavar="X", help="factor on all but experts"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    need_recordings()
    policies = options.policy or [PAPERS_BAND, TUNED_BAND, BAND]
    called = names(policies)
    table = Table("CELL", "POLICY", *SHOWN, "COPIES", title="Change against the best load-only")
    outcomes = {}
    how = How(
        options.seeds,
        options.duration,
        options.all_driven,
        options.moe_only,
        options.beside_experts,
    )
    with Progress(console=Console(stderr=True), transient=True) as progress:
        total = sum(steps(study_of(cell, policies, how)) for cell in CELLS)
        task = progress.add_task("simulating", total=total)
        for cell in CELLS:
            outcome = run_cell(cell, policies, how, options.jobs, lambda: progress.advance(task))
            outcomes[str(cell)] = asdict(outcome)
            for policy in policies:
                found = {c.figure: _row(c) for c in outcome.changes if c.policy == policy}
                figures = outcome.figures[policy]
                copies = f"{figures['copies'] / figures['requests']:.0%}"
                table.add_row(
                    str(cell), called[policy], *(found.get(name, "") for name in SHOWN), copies
                )
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    document = {"how": asdict(how), "cells": outcomes}
    written("cells", document)


if __name__ == "__main__":
    main()
