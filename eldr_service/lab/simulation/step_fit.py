"""Fits the cost of a decode step on an engine from its recorded times."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST_STEPS = 200
BLOCKS = 10  # periods, each left out once for the confidence interval
WIDEST = (
    0.5  # half the interval of an expert's cost over the cost; beyond it the data do not suffice
)
OUTLIER = 5.0  # robust standard deviations
ROUNDS = 4  # of fitting, weighting and outlier removal
STUDENT = 2.262  # 97.5% at BLOCKS - 1 degrees of freedom

Floats = NDArray[np.float64]
Solve = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFit:
    """``fixed_us + per_sequence_us * batch size + per_expert_us * active experts of all layers``.

    Attributes
    ----------
    fixed_us, per_sequence_us, per_expert_us : float
        None negative.
    interval_us : (float, float)
        95% interval of per_expert_us, by a jackknife over periods.
    r_squared : float
    median_error : float
        Median relative error of a step's time.
    steps, outliers : int
        Numbers of steps fitted on and left out.
    """

    fixed_us: float
    per_sequence_us: float
    per_expert_us: float
    interval_us: tuple[float, float]
    r_squared: float
    median_error: float
    steps: int
    outliers: int

    def quality(self) -> str:
        """A one-line summary."""
        low, high = self.interval_us
        return (
            f"{self.per_expert_us:.3g} µs per expert (95% {low:.3g} to {high:.3g}),"
            f" {self.per_sequence_us:.3g} µs per sequence, {self.fixed_us:.4g} µs per step;"
            f" {self.steps:,} steps, R² {self.r_squared:.2f}, median error {self.median_error:.1%},"
            f" {self.outliers:,} outliers left out."
        )


def fit_steps(seconds: Floats, sizes: NDArray[np.integer]) -> StepFit:
    """Least squares of the relative errors, on the steps that only decode.

    Parameters
    ----------
    seconds : ndarray, shape [n]
    sizes : ndarray, shape [n, 4]
        Per step: sequences that got a token, tokens computed, tokens of context, distinct experts
        summed over the layers.

    Raises
    ------
    ValueError
        There are too few steps, or they do not separate an expert's cost from a sequence's or
        from noise.
    """
    alone = (sizes[:, 0] == sizes[:, 1]) & (sizes[:, 0] > 0) & (sizes[:, 3] > 0) & (seconds > 0)
    if alone.sum() < FEWEST_STEPS:
        raise ValueError(
            f"{alone.sum():,} recorded steps only decode; a step cost needs {FEWEST_STEPS}"
        )
    batch, active = (sizes[alone, column].astype(np.float64) for column in (0, 3))
    us = seconds[alone] * 1e6
    design = np.column_stack([np.ones_like(us), batch, active])
    if _told_by_batch(batch, active):
        raise ValueError(
            "the recorded steps do not determine an expert's cost: their batch size determines how"
            " many experts are active. Record under varying load"
        )
    # Disturbances lengthen steps by a share, so relative errors are comparable, absolute ones not.
    weight, kept = 1 / us, np.ones(len(us), bool)
    for _ in range(ROUNDS):
        cost = _least_squares((design * weight[:, None])[kept], (us * weight)[kept])
        weight = 1 / np.maximum(design @ cost, np.median(us) / 100)
        error = us * weight - 1
        spread = np.median(np.abs(error - np.median(error))) * 1.4826
        kept = np.abs(error) <= OUTLIER * max(spread, 1e-9)
    design, relative = (design * weight[:, None])[kept], (us * weight)[kept]

    around, half = _jackknife(_free, design, relative)
    if not half < WIDEST * around:
        raise ValueError(
            f"the recorded steps do not determine an expert's cost: {around:.3g} µs, 95%"
            f" {around - half:.3g} to {around + half:.3g}. Record longer, under varying load"
        )
    cost = _least_squares(design, relative)
    around, half = _jackknife(_least_squares, design, relative)
    error = relative - design @ cost
    fixed, sequence, expert = cost.tolist()
    return StepFit(
        fixed_us=fixed,
        per_sequence_us=sequence,
        per_expert_us=expert,
        interval_us=(around - half, around + half),
        r_squared=float(1 - (error / weight[kept]).var() / us[kept].var()),
        median_error=float(np.median(np.abs(error))),
        steps=int(kept.sum()),
        outliers=int((~kept).sum()),
    )


def _jackknife(solve: Solve, design: Floats, us: Floats) -> tuple[float, float]:
    """An expert's cost and half its 95% interval; nearby steps are not independent."""
    block = np.arange(len(us)) * BLOCKS // len(us)
    without = [solve(design[block != b], us[block != b])[2] for b in range(BLOCKS)]
    half = STUDENT * np.sqrt((BLOCKS - 1) * np.var(without))
    return float(solve(design, us)[2]), float(half)


def _told_by_batch(batch: Floats, active: Floats) -> bool:
    """Whether the batch size determines the number of active experts."""
    order = np.lexsort((active, batch))
    batch, active = batch[order], active[order]
    return not ((np.diff(batch) == 0) & (np.diff(active) != 0)).any()


def _free(design: Floats, us: Floats) -> Floats:
    """Least squares with any signs; a constant batch size gets a share of the constant."""
    return np.asarray(np.linalg.lstsq(design, us, rcond=None)[0], np.float64)


def _least_squares(design: Floats, us: Floats) -> Floats:
    """Non-negative least squares: the best over column sets with a non-negative solution."""
    best: Floats
    best, least = np.zeros(3), np.inf
    for columns in ([0, 1, 2], [0, 2], [1, 2], [2]):
        solution: Floats = np.zeros(3)
        solution[columns] = _free(design[:, columns], us)
        error = float(((us - design @ solution) ** 2).sum())
        if solution.min() >= 0 and error < least:
            best, least = solution, error
    return best
