"""Two things measured by turns in one run, as a ratio with the noise that it was measured with."""

import argparse
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

RESAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class Ratio:
    """How much more of something ours gets than the baseline.

    Attributes
    ----------
    ours, baseline : float
        Medians over the turns.
    ratio : float
        Median of the turns' ratios, above 1 where ours is better.
    low, high : float
        95% interval of the median, by bootstrap over the turns.
    """

    ours: float
    baseline: float
    ratio: float
    low: float
    high: float

    def verdict(self, goal: float) -> str:
        """Missed only where the noise does not explain it."""
        if self.ratio >= goal:
            return "met"
        return "within noise" if self.high >= goal else "missed"


def by_turns(
    ours: Callable[[], float], baseline: Callable[[], float], turns: int, *, less: bool = False
) -> Ratio:
    """Measure both `turns` times, the first of each turn alternating.

    Parameters
    ----------
    ours, baseline : callable () -> float
        Return what was measured, a rate or a time.
    turns : int
    less : bool
        Less is better, as of times.
    """
    measured: dict[str, list[float]] = {"ours": [], "baseline": []}
    both = (("ours", ours), ("baseline", baseline))
    for turn in range(turns):
        for name, measure in both if turn % 2 else both[::-1]:
            measured[name].append(measure())
    return ratio(measured["ours"], measured["baseline"], less=less)


def ratio(ours: list[float], baseline: list[float], *, less: bool = False) -> Ratio:
    """The ratio of what was measured in the same turns."""
    a, b = np.array(ours), np.array(baseline)
    ratios = b / a if less else a / b
    drawn = np.random.default_rng(0).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    return Ratio(
        float(np.median(a)), float(np.median(b)), float(np.median(ratios)), float(low), float(high)
    )


def add_options(parser: argparse.ArgumentParser, name: str) -> None:
    """Options that every benchmark with goals has."""
    parser.add_argument("--out", type=Path, default=Path(f"build/bench/{name}.json"))
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit 1 when a ratio is below its goal by more than the noise explains",
    )


def finish(
    title: str,
    result: dict[str, Any],
    goals: dict[str, float],
    options: argparse.Namespace,
    floors: dict[str, float] | None = None,
) -> None:
    """Show `result["ratios"]` beside their goals, write all as JSON, and check if asked to.

    A goal that is not reached has a floor below it, which is checked in its place: what was
    reached must not be lost.
    """
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for column in ("ELDR", "baseline", "ratio", "95%", "goal"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    missed = []
    for name, r in result["ratios"].items():
        goal = goals.get(name)
        verdict = "" if goal is None else r.verdict(goal)
        if goal is not None and r.verdict((floors or {}).get(name, goal)) == "missed":
            missed.append(name)
        table.add_row(
            name,
            f"{r.ours:.4g}",
            f"{r.baseline:.4g}",
            f"{r.ratio:.2f}",
            f"{r.low:.2f} to {r.high:.2f}",
            "" if goal is None else f"{goal:.2f}",
            verdict,
        )
    Console().print(table)
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    document = {"machine": machine, "goals": goals, **result}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=2, default=asdict) + "\n")
    if options.check and missed:
        raise SystemExit(f"below the goal or its floor: {', '.join(missed)}")
