"""Two things measured in turn in one run, as a ratio with its measurement noise."""

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
    """How much better ours is than the baseline.

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
        """*missed* only if noise does not explain the shortfall."""
        if self.ratio >= goal:
            return "met"
        return "within noise" if self.high >= goal else "missed"


def by_turns(
    ours: Callable[[], float], baseline: Callable[[], float], turns: int, *, less: bool = False
) -> Ratio:
    """Measure both `turns` times, alternating which goes first.

    Parameters
    ----------
    ours, baseline : callable () -> float
        Return the measurement, a rate or a time.
    turns : int
    less : bool
        Whether less is better, as for times.
    """
    measured: dict[str, list[float]] = {"ours": [], "baseline": []}
    both = (("ours", ours), ("baseline", baseline))
    for turn in range(turns):
        for name, measure in both if turn % 2 else both[::-1]:
            measured[name].append(measure())
    return ratio(measured["ours"], measured["baseline"], less=less)


def ratio(ours: list[float], baseline: list[float], *, less: bool = False) -> Ratio:
    """The ratio of values measured in the same turns."""
    a, b = np.array(ours), np.array(baseline)
    ratios = b / a if less else a / b
    drawn = np.random.default_rng(0).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    return Ratio(
        float(np.median(a)), float(np.median(b)), float(np.median(ratios)), float(low), float(high)
    )


def add_options(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the options that every benchmark with goals has."""
    parser.add_argument("--out", type=Path, default=Path(f"build/bench/{name}.json"))
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit 1 if a ratio is below its goal, or its floor, by more than noise explains",
    )


def finish(
    title: str,
    result: dict[str, Any],
    goals: dict[str, float],
    options: argparse.Namespace,
    floors: dict[str, float] | None = None,
) -> None:
    """Show `result["ratios"]` beside their goals, write all as JSON, and check if asked to.

    A goal not yet reached has a floor below it, which is checked instead, so that what was
    reached is not lost.
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
