"""Policies side by side: figures over seeds, and changes relative to the best load-only policy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

Figures = Mapping[str, float]

LOAD_ONLY = ("round-robin", "random", "join-shortest-queue", "power-of-two-choices")
COMPARED = (
    *(f"tpot_ms.{part}" for part in ("p50", "p95", "p99", "mean")),
    "active_experts",
    "load_imbalance",
)
SUMMED = ("requests", "tokens", "copies", "refused", "decided_again", "moves")


@dataclass(frozen=True, slots=True)
class Change:
    """A policy's figure relative to that of the load-only policy best in it.

    Attributes
    ----------
    policy, best_load_only, figure : str
    relative : float
        Mean over seeds of value / best - 1; negative: the policy is better.
    interval : (float, float) or None
        Student's 95% interval of that mean over paired seeds; None with a single seed.
    """

    policy: str
    best_load_only: str
    figure: str
    relative: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Margin:
    """A figure relative to another's, as in `Change`."""

    relative: float
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, own: ArrayLike, other: ArrayLike) -> "Margin":
        """Margin of `own` over `other`, values of the same seeds."""
        relative = np.asarray(own, np.float64) / np.asarray(other, np.float64) - 1
        return cls(float(relative.mean()), interval(relative))


def over_seeds(figures: Sequence[Figures]) -> dict[str, float]:
    """One policy's figures: counts are summed over the seeds, the others averaged."""
    return {
        name: (sum if name in SUMMED else _mean)([one[name] for one in figures])
        for name in figures[0]
    }


def changes(figures: Mapping[str, Sequence[Figures]]) -> list[Change]:
    """Compare every policy with the best load-only one.

    Parameters
    ----------
    figures : mapping of NAME[:key=value,…] to a policy's figures, one per seed
        The same seeds in the same order for all policies.

    Returns
    -------
    list of Change
        One per policy and figure; the best is chosen per figure, the strictest comparison. Empty
        without a load-only policy.
    """
    rivals = [policy for policy in figures if policy.partition(":")[0] in LOAD_ONLY]
    found = []
    for figure in COMPARED if rivals else ():
        values = {p: np.array([one[figure] for one in figures[p]]) for p in figures}
        best = min(rivals, key=lambda rival: float(values[rival].mean()))
        for policy, own in values.items():
            if policy != best:
                margin = Margin.of(own, values[best])
                found.append(Change(policy, best, figure, margin.relative, margin.interval))
    return sorted(found, key=lambda change: list(figures).index(change.policy))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def interval(values: np.ndarray) -> tuple[float, float] | None:
    """Student's 95% interval of the mean; None for fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    half = student_t(n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return float(values.mean()) - half, float(values.mean()) + half


def student_t(degrees: int, confidence: float = 0.95) -> float:
    """Two-sided quantile: Student's t lies within plus or minus it with that probability."""
    low, high = 0.0, math.pi / 2  # as angles atan(t / sqrt(degrees))
    for _ in range(60):
        middle = (low + high) / 2
        if _within(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(degrees)


def _within(angle: float, degrees: int) -> float:
    """Student's distribution in closed form (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(2 + odd, degrees + 1, 2):
        total += term
        term *= (k - 1) / k * cosine * cosine
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
