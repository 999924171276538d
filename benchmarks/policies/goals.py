"""What `marginal-cost` must achieve in every scenario, judged by paired seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eldr_service.lab.simulation.comparison import LOAD_ONLY, interval

BAND, PRICED = "locality-band", "marginal-cost"
P50, P99, MEAN = FIGURES = ("tpot_ms.p50", "tpot_ms.p99", "tpot_ms.mean")
POLICIES = (*LOAD_ONLY, BAND, PRICED)
GOALS = ("mean / band", "p99 / band", "p99 / load-only", "p50 / band")
AT_16 = 0.02  # how much worse than the band's the median may be on 16 workers or more

Values = Mapping[str, Mapping[str, Sequence[float]]]
"""Policy -> figure -> one value per seed."""


@dataclass(frozen=True)
class Judged:
    """A relative change that must be below a limit.

    Attributes
    ----------
    change : float
        Mean over paired seeds.
    interval : (float, float) or None
        Student's 95%; None for a single seed.
    limit : float
    """

    change: float
    interval: tuple[float, float] | None
    limit: float = 0.0

    @property
    def verdict(self) -> str:
        """*met* and *missed* are beyond chance; *likely* and *unlikely* follow the mean."""
        low, high = self.interval or (-np.inf, np.inf)
        if high < self.limit:
            return "met"
        if low > self.limit:
            return "missed"
        return "likely" if self.change < self.limit else "unlikely"

    def __str__(self) -> str:
        half = f" ±{self.interval[1] - self.change:.1%}" if self.interval else ""
        return f"{self.change:+.1%}{half}"


def judge(values: Values, workers: int) -> dict[str, Judged]:
    """Goal -> how far `marginal-cost` is from it."""

    def against(figure: str, other: Sequence[float], limit: float = 0.0) -> Judged:
        relative = np.array(values[PRICED][figure]) / np.array(other) - 1
        return Judged(float(relative.mean()), interval(relative), limit)

    best = min((values[policy][P99] for policy in LOAD_ONLY), key=np.mean)
    judged = (
        against(MEAN, values[BAND][MEAN]),
        against(P99, values[BAND][P99]),
        against(P99, best),
        against(P50, values[BAND][P50], AT_16 if workers >= 16 else 0.0),
    )
    return dict(zip(GOALS, judged, strict=True))


def gain(values: Values, policy: str, figure: str) -> Judged:
    """A policy's change against the best load-only one by that figure."""
    best = min((values[other][figure] for other in LOAD_ONLY), key=np.mean)
    relative = np.array(values[policy][figure]) / np.array(best) - 1
    return Judged(float(relative.mean()), interval(relative))
