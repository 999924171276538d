"""The simulator against the paper's tables, point by point: signs and orders, not milliseconds.

The tables (../shared/data/paper, from casys-kaist/ELDR, Apache-2.0; single runs on 8 prefill and 16
decode MI300X) give TPOT for two workloads, three models, six policies and five rates. No recording
of those models is public, so these stand in for them:

    task, gptoss       gpt-oss-20b on topics, costs of gpt-oss-120b
    task, qwen, gemma  DeepSeek-V2-Lite on four tasks, costs of qwen and gemma
    language           synthetic routing, 128 experts with the model's top-k, eight domains

Steps cost what whole steps are assumed to cost on an H200. A point's load is matched by batch size:
the requests in flight per worker are rate x TPOT x output tokens of the paper's round robin, with
256 output tokens, as its tables do not give lengths. If that exceeds the number of recordings, some
requests are copies of each other: their share is printed, and flatters locality. TTFT is not
compared: here prefill is a delay.

Prints agreement and every disagreement, and writes build/bench/paper.json. Two policies are ordered
if they differ by 1% or more in both; less is a tie. Agreement is compared with predictions that use
no simulator: for the band's changes the paper's mean at the other points, for signs the most common
sign, for orders each pair's most common order.
"""

import csv
import itertools
import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.demos.demo.workload import expected_step_s
from benchmarks.shared_data import ACTIVATIONS, SHARED
from benchmarks.written import FOLDER, written
from eldr_service.lab.recordings import Recording
from eldr_service.lab.simulation.comparison import LOAD_ONLY, over_seeds
from eldr_service.lab.simulation.contender import BAND, PAPERS_BAND
from eldr_service.lab.simulation.cost import built_in_costs
from eldr_service.lab.simulation.deployment import Deployment
from eldr_service.lab.simulation.engine import Engine
from eldr_service.lab.simulation.study import Study, run_study
from eldr_service.lab.simulation.synthetic import SyntheticRouting
from eldr_service.lab.simulation.traffic import Traffic

PAPER = SHARED / "paper"
WORKERS, OUTPUT_TOKENS, TIE = 16, 256, 0.01
NAMES = {
    "rr": "round-robin",
    "random": "random",
    "jsq": "join-shortest-queue",
    "p2c": "power-of-two-choices",
    "eldr": PAPERS_BAND,
    "domain": "domain-oracle",
}
TAUS = {"rr": "round-robin"} | {
    f"tau{tau}": f"{BAND}:transform=counts-idf,tau={tau}" for tau in ("0", "0.1", "0.2", "0.3")
}
FIGURES = {"tpot_p50_ms": "tpot_ms.p50", "tpot_p99_ms": "tpot_ms.p99"}
COSTS = {
    "qwen": "qwen3-30b-a3b-h200",
    "gptoss": "gpt-oss-120b-h200",
    "gemma": "gemma-4-26b-a4b-h200",
}
TOP_K = {"qwen": 8, "gptoss": 4, "gemma": 8}

Values = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Point:
    """A workload, model and rate in the paper, with each policy's figures there, in ms."""

    workload: str
    model: str
    rate: float
    policies: dict[str, str]
    measured: Values

    def __str__(self) -> str:
        kind = ", tau" if self.policies is TAUS else ""
        return f"{self.workload} {self.model} {self.rate:g}/s{kind}"


def points() -> Iterator[Point]:
    """The main table's points, then the ablation of tau."""
    for table, policies in (("main_all_policies", NAMES), ("ablations_60rps", TAUS)):
        found: dict[tuple[str, str, float], Values] = {}
        with (PAPER / f"{table}.csv").open() as file:
            for row in csv.DictReader(file):
                if row.get("experiment", "tau") == "tau":
                    rate = float(row.get("rate_rps", 60))
                    at = found.setdefault((row["workload"], row["model"], rate), {})
                    name = policies[row.get("policy") or row["variant"]]
                    at[name] = {ours: float(row[theirs]) for theirs, ours in FIGURES.items()}
        for (workload, model, rate), measured in found.items():
            yield Point(workload, model, rate, policies, measured)


def recording_of(point: Point) -> Path:
    """The recording that stands in for the point's workload and model."""
    if point.workload == "task":
        name = "gpt-oss-20b-topics" if point.model == "gptoss" else "deepseek-v2-lite-tasks"
        return ACTIVATIONS / f"{name}.npz"
    path = FOLDER / f"language-top-{TOP_K[point.model]}.npz"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        top_k = TOP_K[point.model]
        SyntheticRouting(experts=128, top_k=top_k, requests=800).generate().save(path)
    return path


def simulated(
    point: Point, path: Path, drive_all: bool, seeds: int, jobs: int
) -> tuple[Values, float, float]:
    """The point's figures with a recording, the target batch size, and the share of copies."""
    recording = Recording.load(path)
    cost = built_in_costs()[COSTS[point.model]]
    in_flight = point.rate * OUTPUT_TOKENS * point.measured["round-robin"]["tpot_ms.p50"] * 1e-3
    batch = in_flight / WORKERS
    everything = np.arange(recording.num_requests)
    step_s = expected_step_s(recording, everything, batch, cost)
    rate = in_flight / (OUTPUT_TOKENS * step_s)
    study = Study(
        activations=path,
        policies=tuple(point.policies.values()),
        deployment=Deployment((Engine(cost),) * WORKERS),
        traffic=Traffic(max(1000, 3 * in_flight) / rate, rate, output_tokens=OUTPUT_TOKENS),
        seeds=tuple(range(seeds)),
        drive_all=drive_all,
    )
    runs = run_study(study, jobs)
    figures = {p: over_seeds([run.figures for run in each]) for p, each in runs.items()}
    copies = max(each["copies"] / each["requests"] for each in figures.values())
    chosen = {p: {name: each[name] for name in FIGURES.values()} for p, each in figures.items()}
    return chosen, batch, copies


def against_best(values: Values, policy: str, figure: str) -> float:
    """Relative change against the best load-only policy present."""
    best = min(values[p][figure] for p in LOAD_ONLY if p in values)
    return values[policy][figure] / best - 1


def orderings(paper: Values, ours: Values, figure: str) -> Iterator[tuple[str, str, float, float]]:
    """Pairs that differ on both sides: (one, other, one / other - 1 in the paper, and here)."""
    for a, b in itertools.combinations(paper, 2):
        theirs = paper[a][figure] / paper[b][figure] - 1
        own = ours[a][figure] / ours[b][figure] - 1
        if min(abs(theirs), abs(own)) >= TIE:
            yield a, b, theirs, own


def agreement(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """How well changes here predict the paper's: correlations, and errors beside a constant's.

    `constant` is the error of predicting each point by the mean of the paper's others.
    """
    paper, here = np.array(theirs), np.array(ours)
    n = len(paper)
    others = (paper.sum() - paper) / (n - 1)
    return {
        "points": n,
        "correlation": _correlation(paper, here),
        "of ranks": _correlation(_ranks(paper), _ranks(here)),
        "mean error": float(np.abs(here - paper).mean()),
        "constant": float(np.abs(others - paper).mean()),
        "signs": int((paper * here > 0).sum()),
        "commonest sign": int(max((paper < 0).sum(), (paper > 0).sum())),
    }


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.corrcoef(one, other)[0, 1]) if one.std() and other.std() else float("nan")


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.argsort(np.argsort(values)).astype(np.float64)


def main() -> None:
    parser = ArgumentParser(prog="python -m benchmarks.policies.paper", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if not PAPER.is_dir():
        sys.exit(f"{PAPER}: expected the paper's tables, found nothing")
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("POINT", "BATCH", "COPIES", title="the paper's band against the best load-only")
    for name in FIGURES.values():
        table.add_column(f"{name}: paper")
        table.add_column("here")
    signs = {name: [0, 0] for name in FIGURES.values()}
    pairs = {name: [0, 0] for name in FIGURES.values()}
    disagreements, document = [], []
    changed: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    orders: dict[tuple[str, str, str], list[bool]] = {}
    every = list(points())
    for point in track(every, console=Console(stderr=True), transient=True):
        task = point.workload == "task"
        ours, batch, copies = simulated(
            point, recording_of(point), task, options.seeds, options.jobs
        )
        cells = []
        for figure in FIGURES.values():
            theirs = against_best(point.measured, PAPERS_BAND, figure)
            own = against_best(ours, PAPERS_BAND, figure)
            same = theirs * own > 0
            signs[figure][0] += same
            signs[figure][1] += 1
            if point.policies is NAMES:
                for of in (f"{point.workload} {point.model}", "all"):
                    paper_own = changed.setdefault((figure, of), ([], []))
                    paper_own[0].append(theirs)
                    paper_own[1].append(own)
            cells += [f"{theirs:+.1%}", f"{own:+.1%}{'' if same else ' !'}"]
            for a, b, paper_change, change in orderings(point.measured, ours, figure):
                agrees = paper_change * change > 0
                orders.setdefault((figure, a, b), []).append(paper_change < 0)
                pairs[figure][0] += agrees
                pairs[figure][1] += 1
                if not agrees:
                    disagreements.append(
                        f"{point}: {figure} of {a} against {b}: paper {paper_change:+.1%},"
                        f" here {change:+.1%}"
                    )
        table.add_row(str(point), f"{batch:.1f}", f"{copies:.0%}", *cells)
        document.append(
            {
                "point": str(point),
                "batch": batch,
                "copies": copies,
                "recording": recording_of(point).stem,
                "paper": point.measured,
                "here": ours,
            }
        )
    console.print(table)
    for figure in FIGURES.values():
        console.print(
            f"{figure}: the sign of the band's change agrees at {signs[figure][0]} of"
            f" {signs[figure][1]} points, the order of two policies in {pairs[figure][0]} of"
            f" {pairs[figure][1]} pairs that differ by {TIE:.0%} or more on both sides; the paper's"
            f" commonest order of each pair in {commonest(orders, figure)}"
        )
    agreed = {" ".join(key): agreement(*both) for key, both in changed.items()}
    console.print(agreements(agreed))
    console.print(f"\n{len(disagreements)} orders disagree:")
    for line in disagreements:
        console.print(f"  {line}", highlight=False, soft_wrap=True)
    written(
        "paper",
        {
            "agreement": agreed,
            "points": document,
            "signs": signs,
            "pairs": pairs,
            "disagree": disagreements,
        },
    )


def commonest(orders: dict[tuple[str, str, str], list[bool]], figure: str) -> int:
    """Number of pairs that the most common order of their two policies predicts correctly."""
    return sum(
        max(sum(lower), len(lower) - sum(lower))
        for (of, _, _), lower in orders.items()
        if of == figure
    )


def agreements(agreed: dict[str, dict[str, float]]) -> Table:
    """A table of `agreement`, one row per name."""
    table = Table("THE BAND'S CHANGES", "POINTS", "CORRELATION", "OF RANKS", "MEAN ERROR",
                  "A CONSTANT'S", "SIGNS", "COMMONEST SIGN")  # fmt: skip
    for name, found in agreed.items():
        table.add_row(
            name,
            f"{found['points']}",
            f"{found['correlation']:+.2f}",
            f"{found['of ranks']:+.2f}",
            f"{100 * found['mean error']:.1f} points",
            f"{100 * found['constant']:.1f} points",
            f"{found['signs']}",
            f"{found['commonest sign']}",
        )
    return table


if __name__ == "__main__":
    main()
