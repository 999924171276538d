"""The paper's gain at each rate, predicted with routing generated to match its gains at the others.

`benchmarks.policies.paper` uses public recordings of other models, and copies of requests where
there are too few. Here routing is generated (`lab.simulation.synthetic`, 128 experts, enough
requests for all in flight). How much domains differ, and how much requests do, is chosen per
workload and model: the pair whose changes of TPOT p50, of the paper's band and of domain-oracle
against the best load-only policy, are nearest to the paper's in the mean over *the other four
rates*. Its prediction for the rate left out is compared with the mean of those four rates, which
uses as much of the paper.

    python -m benchmarks.policies.paper_matched [--seeds N]

Loads are matched as in `paper`. Writes build/bench/paper_matched.json. Needs the paper's tables in
../shared/data.
"""

import os
import sys
from argparse import ArgumentParser
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.policies.paper import (
    FIGURES,
    NAMES,
    PAPER,
    TOP_K,
    Point,
    Values,
    against_best,
    agreement,
    agreements,
    points,
    simulated,
)
from benchmarks.written import FOLDER, written
from eldr_service.lab.simulation.contender import PAPERS_BAND
from eldr_service.lab.simulation.synthetic import SyntheticRouting

P50 = "tpot_ms.p50"
FITTED = (PAPERS_BAND, "domain-oracle")
DOMAINS = (0.3, 0.6, 1.0, 1.4)
REQUESTS = (0.4, 0.7, 1.0)
"""Standard deviations of the logits' parts shared by a domain, and of a request's own."""

Spread = tuple[float, float]


def generated(top_k: int, spread: Spread) -> Path:
    """A recording with these deviations, generated once."""
    domain, request = spread
    path = FOLDER / f"paper-top-{top_k}-{domain:g}-{request:g}.npz"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        SyntheticRouting(
            experts=128, top_k=top_k, requests=1600, domain=domain, request=request
        ).generate().save(path)
    return path


def run(point: Point, spread: Spread, seeds: int) -> Values:
    """The point's figures with such routing."""
    return simulated(point, generated(TOP_K[point.model], spread), False, seeds, 1)[0]


def foretold(mine: list[Point], found: dict[Spread, list[Values]], left_out: int) -> Spread:
    """The deviations nearest to the paper in the mean over the other rates."""
    others = [i for i in range(len(mine)) if i != left_out]

    def distance(spread: Spread) -> float:
        return sum(
            float(
                np.mean(
                    [
                        against_best(found[spread][i], policy, P50)
                        - against_best(mine[i].measured, policy, P50)
                        for i in others
                    ]
                )
            )
            ** 2
            for policy in FITTED
        )

    return min(found, key=distance)


def main() -> None:
    parser = ArgumentParser(prog="python -m benchmarks.policies.paper_matched", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if not PAPER.is_dir():
        sys.exit(f"{PAPER}: expected the paper's tables, found nothing")
    every = [point for point in points() if point.policies is NAMES]
    spreads = list(product(DOMAINS, REQUESTS))
    for top_k, spread in product(sorted({*TOP_K.values()}), spreads):
        generated(top_k, spread)
    with ProcessPoolExecutor(options.jobs) as pool:
        runs = {
            (str(point), spread): pool.submit(run, point, spread, options.seeds)
            for point in every
            for spread in spreads
        }
        for future in track(runs.values(), console=Console(stderr=True), transient=True):
            future.result()
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("POINT", "DOMAINS, REQUESTS", title="the band against the best load-only policy")
    for figure in FIGURES.values():
        table.add_column(f"{figure}: paper")
        table.add_column("here")
    changed: dict[str, tuple[list[float], list[float]]] = {}

    def compare(name: str, theirs: float, predicted: float) -> None:
        both = changed.setdefault(name, ([], []))
        both[0].append(theirs)
        both[1].append(predicted)

    chosen = {}
    groups = Counter(f"{point.workload} {point.model}" for point in every)
    for group in groups:
        mine = [point for point in every if f"{point.workload} {point.model}" == group]
        found = {s: [runs[str(point), s].result() for point in mine] for s in spreads}
        for i, point in enumerate(mine):
            spread = chosen[str(point)] = foretold(mine, found, i)
            row = []
            for figure in FIGURES.values():
                measured = [against_best(each.measured, PAPERS_BAND, figure) for each in mine]
                theirs = measured.pop(i)
                own = against_best(found[spread][i], PAPERS_BAND, figure)
                row += [f"{theirs:+.1%}", f"{own:+.1%}"]
                compare(f"{figure} {group}", theirs, own)
                compare(f"{figure} all", theirs, own)
                compare(f"{figure} all, by the other rates' mean", theirs, float(np.mean(measured)))
            table.add_row(str(point), "{:g}, {:g}".format(*spread), *row)
    console.print(table)
    agreed = {name: agreement(*both) for name, both in changed.items()}
    console.print(agreements(agreed))
    written("paper_matched", {"agreement": agreed, "chosen": chosen})


if __name__ == "__main__":
    main()
