"""What moving running requests gains over placements alone, and how far both are from a bound.

    python -m benchmarks.policies.moves [--cell TEXT ...] [--seeds N] [--pause SECONDS]

In cells of `benchmarks.policies.cells`: `marginal-cost` with moves against itself without, on the
same requests. A move pauses its request, from its last token on one worker until it can join the
next step of the other.

The second table gives shares of the gain of free moves with true experts over `join-shortest-queue`
(`benchmarks.policies.bound`): those of `marginal-cost` as it is, and *knowing* the experts that all
decodes use, each without and with moves; and that of the best placements found *in hindsight*, with
the whole future known (`benchmarks.policies.hindsight`).

Intervals are Student's 95% over paired seeds. Writes build/bench/moves.json.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.policies.cells import DEEPSEEK, GPT_OSS, OUTPUT_TOKENS, Cell, How, study_of
from benchmarks.policies.evidence import BOUND, against, bound
from benchmarks.policies.goals import FIGURES, MEAN, PRICED
from benchmarks.policies.hindsight import placed_in_hindsight
from benchmarks.policies.known_use import TrueUse, knowing
from benchmarks.shared_data import need_recordings
from benchmarks.written import written
from eldr_service.lab.simulation.deployment import Delay
from eldr_service.lab.simulation.simulate import simulate
from eldr_service.lab.simulation.study import log_to_stderr
from eldr_service.policies.registry import create

JSQ = "join-shortest-queue"
MOVING, KNOWING, KNOWING_MOVING = "with moves", "knowing", "knowing, with moves"
HINDSIGHT = "in hindsight"
CELLS = (
    *(Cell(*GPT_OSS, workers, rate) for workers, rate in ((2, 19), (4, 38), (8, 75), (16, 60))),
    *(Cell(*DEEPSEEK, workers, rate) for workers, rate in ((4, 60), (16, 250))),
)
"""The last one of gpt-oss is at low load."""

Figures = dict[str, dict[str, float]]


def run(cell: Cell, how: How, seed: int, pause_s: float) -> Figures:
    """Figures of each contender with a seed."""
    study = study_of(cell, (), how)
    workload = study.workload(seed)
    use = TrueUse(workload, OUTPUT_TOKENS)
    found = {BOUND: bound(cell, how, seed)}
    best = placed_in_hindsight(workload, study.deployment, OUTPUT_TOKENS)
    found[HINDSIGHT] = best.figures()
    moving = {"moves": "true", "move_seconds": str(pause_s)}
    for name, policy, pause in (
        (JSQ, create(JSQ, {}), None),
        (PRICED, create(PRICED, {}), None),
        (KNOWING, knowing(use, arriving=True, held=True), None),
        (MOVING, create(PRICED, moving), Delay(pause_s)),
        (KNOWING_MOVING, knowing(use, moving, arriving=True, held=True), Delay(pause_s)),
    ):
        deployment = replace(study.deployment, move_pause=pause)
        found[name] = simulate(workload, policy, deployment).figures()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.policies.moves",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cell", action="append", help="only cells whose name has this in it")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--duration", type=float, default=10.0, help="seconds of arrivals")
    parser.add_argument("--pause", type=float, default=0.005, help="seconds that a move costs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    need_recordings()
    log_to_stderr()
    how = How(options.seeds, options.duration)
    cells = [c for c in CELLS if any(part in str(c) for part in options.cell or [""])]
    tasks = [(cell, how, seed, options.pause) for cell in cells for seed in range(options.seeds)]
    runs: list[Figures] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("simulating", total=len(tasks))
        with ProcessPoolExecutor(options.jobs, initializer=log_to_stderr) as pool:
            for figures in pool.map(run, *zip(*tasks, strict=True)):
                runs.append(figures)
                progress.advance(task)
    gained = Table("CELL", *(f"{figure}, %" for figure in FIGURES), "MOVES PER REQUEST",
                   title=f"{PRICED} with moves, against it without")  # fmt: skip
    subjects = (PRICED, KNOWING, HINDSIGHT, MOVING, KNOWING_MOVING)
    shares = Table("CELL", *subjects, title=f"of the gain in the mean of {BOUND}")
    document = {}
    for i, cell in enumerate(cells):
        each = runs[i * options.seeds : (i + 1) * options.seeds]
        values = {name: {f: [one[name][f] for one in each] for f in FIGURES} for name in each[0]}
        changes = {figure: against(values, MOVING, PRICED, figure) for figure in FIGURES}
        moves = np.mean([one[MOVING]["moves"] / one[MOVING]["requests"] for one in each])
        gains = {name: against(values, name, JSQ, MEAN).change for name in (*subjects, BOUND)}
        row = [str(cell)]
        for change in changes.values():
            half = change.interval[1] - change.change if change.interval else float("nan")
            row.append(f"{100 * change.change:+.2f} ±{100 * half:.2f}")
        gained.add_row(*row, f"{moves:.2f}")
        shares.add_row(str(cell), *(f"{gains[name] / gains[BOUND]:.0%}" for name in subjects))
        document[str(cell)] = {
            "values": values,
            "changes": {figure: asdict(change) for figure, change in changes.items()},
            "moves per request": float(moves),
            "gain in the mean over join-shortest-queue": gains,
        }
    console = Console(width=None if sys.stdout.isatty() else 160)
    for table in (gained, shares):
        console.print(table)
    written("moves", {"how": asdict(how), "pause_s": options.pause, "cells": document})


if __name__ == "__main__":
    main()
