"""What an exact balanced assignment costs, next to SciPy's.

SciPy's `linear_sum_assignment` needs one column per place and is measured at 4,800 items and 24
groups, where it takes seconds; `balanced_assignment` gets the same costs in the same run. A million
items by 64 groups follow, without SciPy, with the process's peak memory, which includes the costs.
Then balanced k-means: each iteration's costs are assigned from scratch and from the previous
iteration's prices.

Costs are cosine distances of unit signatures of 256 entries. *Even*: uniform entries, so that all
signatures are nearly equally far from all centroids. *Kinds*: about a third as many kinds as
groups, some far more frequent than others, so that balance must split and mix them. Prices prove
each result optimal: the gap is the most by which its cost can exceed the minimum, relative to it.

Prints a table and writes build/bench/assignment.json.
"""

import argparse
import platform
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment

from benchmarks.written import written
from eldr_service.kernels.fitting.assignment import assignment_with_prices

SIZE = 256
CHUNK = 50_000


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def signatures(n: int, kinds: int, rng: np.random.Generator) -> np.ndarray:
    """Unit rows [n, SIZE] float32; with even entries if `kinds` is 0."""
    if not kinds:
        return unit(rng.random((n, SIZE), np.float32))
    middles = unit(np.random.default_rng(0).gamma(0.5, size=(kinds, SIZE)))
    often = 1 / np.arange(1, kinds + 1)
    kind = rng.choice(kinds, n, p=often / often.sum())
    return unit(middles[kind] + unit(rng.gamma(0.5, size=(n, SIZE))))


def distances(n: int, groups: int, kinds: int) -> np.ndarray:
    """Costs [n, groups] float32, computed without holding all signatures."""
    rng = np.random.default_rng(1)
    centroids = signatures(groups, kinds, rng)
    cost = np.empty((n, groups), np.float32)
    for start in range(0, n, CHUNK):
        rows = cost[start : start + CHUNK]
        rows[:] = 1 - signatures(len(rows), kinds, rng) @ centroids.T
    return cost


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def total(cost: np.ndarray, labels: np.ndarray) -> float:
    return float(cost[np.arange(len(labels)), labels].sum(dtype=np.float64))


def gap(cost: np.ndarray, labels: np.ndarray, prices: np.ndarray, places: int) -> float:
    """Relative excess of the total cost over the dual bound: the most above the minimum."""
    if np.bincount(labels).max() > places:
        raise SystemExit("a group is above its capacity")
    bound = sum(
        (cost[start : start + CHUNK] + prices).min(axis=1).sum()
        for start in range(0, len(cost), CHUNK)
    )
    return float(1 - (bound - places * prices.sum()) / total(cost, labels))


def against_scipy(kinds: int, repeats: int) -> dict[str, Any]:
    n, groups = 4_800, 24
    places = n // groups
    cost = distances(n, groups, kinds)
    columns = np.repeat(cost, places, axis=1)
    scipy, (_, chosen) = timed(lambda: linear_sum_assignment(columns))
    runs = [timed(lambda: assignment_with_prices(cost, places)) for _ in range(repeats)]
    labels, prices = runs[0][1]
    ours = float(np.median([seconds for seconds, _ in runs]))
    theirs = total(columns, chosen)
    return {
        "shape": [n, groups],
        "scipy_seconds": scipy,
        "seconds": ours,
        "ratio": scipy / ours,
        "cost_relative_to_scipy": total(cost, labels) / theirs - 1,
        "gap": gap(cost, labels, prices, places),
    }


def at_size(kinds: int) -> dict[str, Any]:
    n, groups = 1_000_000, 64
    places = -(-n // groups)
    cost = distances(n, groups, kinds)
    seconds, (labels, prices) = timed(lambda: assignment_with_prices(cost, places))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "shape": [n, groups],
        "seconds": seconds,
        "peak_bytes": peak,
        "gap": gap(cost, labels, prices, places),
    }


def in_k_means(n: int, groups: int, iterations: int) -> dict[str, Any]:
    """Seconds of all assignments of balanced k-means, from scratch and from previous prices."""
    points = signatures(n, groups // 3, np.random.default_rng(1))
    places = -(-n // groups)
    centroids, prices = points[:groups], np.zeros(groups)
    cold = warm = worst = 0.0
    for _ in range(iterations):
        cost = 1 - points @ centroids.T
        seconds, (labels, _) = timed(lambda: assignment_with_prices(cost, places))  # noqa: B023
        cold += seconds
        seconds, (labels, prices) = timed(
            lambda: assignment_with_prices(cost, places, start=prices)  # noqa: B023
        )
        warm += seconds
        worst = max(worst, gap(cost, labels, prices, places))
        centroids = unit(np.stack([points[labels == k].mean(axis=0) for k in range(groups)]))
    return {
        "shape": [n, groups],
        "iterations": iterations,
        "cold_seconds": cold,
        "warm_seconds": warm,
        "ratio": cold / warm,
        "gap": worst,
    }


def measure(repeats: int) -> dict[str, Any]:
    return {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "scipy, even": against_scipy(0, repeats),
        "scipy, kinds": against_scipy(8, repeats),
        "million, even": at_size(0),
        "million, kinds": at_size(21),
        "k-means": in_k_means(4_800, 24, 20),
        "k-means, large": in_k_means(200_000, 64, 20),
    }


def table(result: dict[str, Any]) -> Table:
    shown = Table(title="Exact balanced assignment", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("items x groups", "costs", "beside", "ELDR", "faster", "gap"):
        shown.add_column(name, justify="left" if name == "costs" else "right", no_wrap=True)
    for name, row in result.items():
        if not isinstance(row, dict):
            continue
        n, groups = row["shape"]
        seconds = row.get("seconds", row.get("warm_seconds"))
        if "scipy_seconds" in row:
            beside = f"SciPy {row['scipy_seconds']:.1f} s"
        elif "cold_seconds" in row:
            beside = f"cold {row['cold_seconds']:.2f} s"
        else:
            beside = f"{row['peak_bytes'] / 1e9:.2f} GB peak"
        faster = f"{row['ratio']:,.1f}x" if "ratio" in row else ""
        shown.add_row(
            f"{n:,} x {groups}",
            name,
            beside,
            f"{seconds:.4f} s",
            faster,
            f"{row['gap']:.0e}",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    result = measure(parser.parse_args().repeats)
    Console().print(table(result))
    written("assignment", result)


if __name__ == "__main__":
    main()
