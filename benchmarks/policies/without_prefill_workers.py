"""Replicas that prefill what they decode: how much gain remains with predicted signatures?

    python -m benchmarks.policies.without_prefill_workers [--seeds N] [--duration S] [--jobs N]

The cells of gpt-oss-20b's topics with 16 replicas (`cells`), at 150 and 300 requests per second.
*own*: a request is placed after its prefill, by its own signature, as with prefill workers.
*tenant*: it is placed on arrival, by what the router remembers of its domain, which stands for the
tenant; its own signature is known only after its placement. Domains are names of data sets, several
of which hold the same kind of questions: a real fleet's tenants may predict better or worse.

Half of the recording is driven; the partition is fitted on the other half. In both, prefills take
no time, and do not slow decodes.

Prints each policy's change against the best of the four load-only policies, with a 95% interval
over paired seeds, and writes build/bench/without_prefill_workers.json. Needs the public recordings
in ../shared/data.
"""

import argparse
import sys
from dataclasses import asdict, replace

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.policies.cells import GPT_OSS, Cell, How, study_of
from benchmarks.shared_data import need_recordings
from benchmarks.written import written
from eldr_service.lab.simulation.comparison import Change, changes
from eldr_service.lab.simulation.study import run_studies, steps

POLICIES = ("marginal-cost", "marginal-cost:tail=0.03", "locality-band")
CELLS = (Cell(*GPT_OSS, 16, 150), Cell(*GPT_OSS, 16, 300))
SHOWN = ("active_experts", "tpot_ms.mean", "tpot_ms.p99")
SIGNATURES = {"own": False, "tenant": True}


def shown(change: Change) -> str:
    low, high = change.interval or (change.relative, change.relative)
    return f"{change.relative:+.1%} ({low:+.1%} to {high:+.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.policies.without_prefill_workers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of arrivals")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    need_recordings()
    how = How(options.seeds, options.duration)
    named = {}
    for cell in CELLS:
        study = study_of(cell, POLICIES, how)
        for signature, plain in SIGNATURES.items():
            deployment = replace(study.deployment, plain=plain)
            named[f"{cell}, {signature}"] = replace(study, deployment=deployment)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("simulating", total=sum(map(steps, named.values())))
        found = run_studies([*named.values()], options.jobs, lambda: progress.advance(task))
    table = Table("CELL, SIGNATURE", "POLICY", *SHOWN, title="Change against the best load-only")
    cells = {}
    for name, runs in zip(named, found, strict=True):
        figures = {policy: [run.figures for run in each] for policy, each in runs.items()}
        changed = changes(figures)
        cells[name] = [asdict(change) for change in changed]
        for policy in POLICIES:
            of = {change.figure: shown(change) for change in changed if change.policy == policy}
            table.add_row(name, policy, *(of[figure] for figure in SHOWN))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    written("without_prefill_workers", {"how": asdict(how), "cells": cells})


if __name__ == "__main__":
    main()
