"""What policies gain, beside fair baselines and a bound: the tables of docs/evidence.md.

    python -m benchmarks.policies.evidence [--cell TEXT ...] [--seeds N] [--uncycled] [--moe-only]

In the cells of `benchmarks.policies.cells`: the band exactly as in the paper (counts-idf, tau 0.1),
the band tuned on the half that the partition is fitted on, the band as shipped, and
`marginal-cost`, each against the best of four load-only policies by the figure in question; then
`marginal-cost` against the first two bands, also per generated token (*step*); then the share of
the gain of free moves with perfect knowledge (`benchmarks.policies.bound`), per token, that each
reaches. Only the half that nothing was fitted on is driven. If a cell needs more requests than were
recorded, some are copies of others in flight: a dagger marks cells with more than half copies.
--uncycled ends each decode where its recording ends, at a rate that keeps as many in flight.

Intervals are Student's 95% over paired seeds. Writes build/bench/evidence.json.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.policies.bound import FreeMoves
from benchmarks.policies.cells import CELLS, Cell, How, study_of
from benchmarks.policies.goals import FIGURES, PRICED, Judged, Values, gain
from benchmarks.shared_data import need_recordings
from benchmarks.written import written
from eldr_service.lab.simulation.comparison import LOAD_ONLY, interval
from eldr_service.lab.simulation.contender import BAND, PAPERS_BAND, TUNED_BAND, names
from eldr_service.lab.simulation.simulate import simulate
from eldr_service.lab.simulation.study import log_to_stderr, run_studies, steps
from eldr_service.policies.registry import create

BANDS = (PAPERS_BAND, TUNED_BAND, BAND)
POLICIES = (*LOAD_ONLY, *BANDS, PRICED)
BOUND = "free moves, true experts"
STEP = "step_ms"
"""Per generated token: a mean over requests weighs short ones too much."""
MOST_COPIES = 0.5


def bound(cell: Cell, how: How, seed: int) -> dict[str, float]:
    """Figures of free moves with a seed."""
    study = study_of(cell, (), how)
    workload, engine = study.workload(seed), study.deployment.engines[0]
    output = study.traffic.output_tokens
    assert output is None or isinstance(output, int)
    moves = FreeMoves(workload, cell.workers, engine.cost, output)
    policy = create("join-shortest-queue", {})
    return simulate(workload, policy, study.deployment, moves=moves).figures()


def against(values: Values, policy: str, other: str, figure: str) -> Judged:
    """A policy's change against another."""
    relative = np.array(values[policy][figure]) / np.array(values[other][figure]) - 1
    return Judged(float(relative.mean()), interval(relative))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.policies.evidence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cell", action="append", help="only cells whose name has this in it")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of arrivals")
    parser.add_argument("--uncycled", action="store_true", help="decodes as long as recorded")
    parser.add_argument("--moe-only", action="store_true", help="count only the MoE layers")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    need_recordings()
    log_to_stderr()
    how = How(
        options.seeds, options.duration, moe_only=options.moe_only, cycled=not options.uncycled
    )
    cells = [c for c in CELLS if any(part in str(c) for part in options.cell or [""])]
    studies = [study_of(cell, POLICIES, how) for cell in cells]
    tasks = [(cell, how, seed) for cell in cells for seed in range(options.seeds)]
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("simulating", total=sum(map(steps, studies)))
        runs = run_studies(studies, options.jobs, lambda: progress.advance(task))
        task = progress.add_task("moving freely", total=len(tasks))
        bounds = []
        with ProcessPoolExecutor(options.jobs, initializer=log_to_stderr) as pool:
            for figures in pool.map(bound, *zip(*tasks, strict=True)):
                bounds.append(figures)
                progress.advance(task)
    found = {}
    for i, (cell, each) in enumerate(zip(cells, runs, strict=True)):
        figures = {policy: [run.figures for run in of_seed] for policy, of_seed in each.items()}
        figures[BOUND] = bounds[i * options.seeds : (i + 1) * options.seeds]
        found[cell] = figures
    document = print_tables(found)
    written("evidence", {"how": asdict(how), "cells": document})


def print_tables(found: dict[Cell, dict[str, list[dict[str, float]]]]) -> dict[str, object]:
    """Print the tables of the docs; returns all figures."""
    console = Console(width=None if sys.stdout.isatty() else 180)
    shown = names(POLICIES)
    subjects = (*BANDS, PRICED)
    gains = Table("CELL, %", *(shown[p] for p in subjects), BOUND, "COPIES",
                  title="against the best load-only policy: p50 / p99 / mean")  # fmt: skip
    heads = Table("CELL, %", *(f"{f} / {shown[b]}" for b in (PAPERS_BAND, TUNED_BAND) for f in
                               ("mean", "p99", "p50", "step")), "p99 / LOAD-ONLY",
                  title=f"{PRICED} against the bands")  # fmt: skip
    shares = Table(
        "CELL", *(shown[p] for p in subjects), title=f"of the gain by generated token of {BOUND}"
    )
    document: dict[str, object] = {}
    for cell, figures in found.items():
        values = {
            p: {f: [one[f] for one in each] for f in (*FIGURES, STEP)}
            for p, each in figures.items()
        }
        own = figures[PRICED]
        copies = sum(one["copies"] for one in own) / sum(one["requests"] for one in own)
        name = f"{cell}{' †' if copies > MOST_COPIES else ''}"
        best = {p: {f: gain(values, p, f) for f in (*FIGURES, STEP)} for p in (*subjects, BOUND)}
        gains.add_row(
            name,
            *(
                " / ".join(f"{100 * each[f].change:+.1f}" for f in FIGURES)
                for each in best.values()
            ),
            f"{copies:.0%}",
        )
        heads.add_row(
            name,
            *(
                _percent(against(values, PRICED, band, figure))
                for band in (PAPERS_BAND, TUNED_BAND)
                for figure in (*reversed(FIGURES), STEP)
            ),
            _percent(best[PRICED]["tpot_ms.p99"]),
        )
        possible = best[BOUND][STEP].change
        reached = {p: best[p][STEP].change / possible if possible < 0 else None for p in subjects}
        shares.add_row(
            name, *("nothing to gain" if r is None else f"{r:.0%}" for r in reached.values())
        )
        document[str(cell)] = {
            "values": values,
            "copies": copies,
            "against the best load-only": {
                p: {f: asdict(one) for f, one in each.items()} for p, each in best.items()
            },
            "of the bound": reached,
        }
    for table in (gains, heads, shares):
        console.print(table)
    return document


def _percent(judged: Judged) -> str:
    half = f" ±{100 * (judged.interval[1] - judged.change):.1f}" if judged.interval else ""
    return f"{100 * judged.change:+.1f}{half}"


if __name__ == "__main__":
    main()
