"""One policy's results on the workload."""

from collections import Counter
from dataclasses import KW_ONLY, dataclass, field, replace

import numpy as np

from eldr_service.lab.simulation.pool_statistics import PoolStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Weighted by generated token: `active_experts` (per layer), `step_ms`. Times in ms.

    `load_imbalance` is the most requests on a worker over the mean of all, averaged over time; in a
    finished run, up to the last arrival. After it the pool drains: the last request, alone on one
    of 16 workers, is an imbalance of 16 and says nothing about a policy.
    """

    active_experts: float
    step_ms: float
    tpot_p50_ms: float
    tpot_p99_ms: float
    load_imbalance: float
    tokens: int

    @classmethod
    def of(cls, statistics: PoolStatistics) -> "Figures":
        """Take the figures from a pool."""
        tpot_ms = statistics.tpot_s * 1e3
        p50, p99 = np.percentile(tpot_ms, [50, 99]) if len(tpot_ms) else (np.nan, np.nan)
        return cls(
            active_experts=float(statistics.active_experts),
            step_ms=float(statistics.step_seconds) * 1e3,
            tpot_p50_ms=float(p50),
            tpot_p99_ms=float(p99),
            load_imbalance=float(statistics.load_imbalance),
            tokens=int(statistics.tokens),
        )

    def with_imbalance_of(self, under_load: "Figures") -> "Figures":
        """These figures, with the load imbalance of earlier ones."""
        return replace(self, load_imbalance=under_load.load_imbalance)


@dataclass(slots=True)
class Run:
    """One policy's run.

    Attributes
    ----------
    placements : list of (recording, worker)
        In order of placement.
    waited : int
        Arrivals that found every recording in flight.
    most_in_flight : int
    figures : Figures
        Set at the end.
    reasons : Counter of PlacementReason names
    route_s : list of float
        Real seconds of each Route call, as its caller saw them.
    """

    policy: str
    _: KW_ONLY
    placements: list[tuple[int, int]] = field(default_factory=list)
    waited: int = 0
    most_in_flight: int = 0
    figures: Figures | None = None
    reasons: Counter[str] = field(default_factory=Counter)
    route_s: list[float] = field(default_factory=list)

    @property
    def finished(self) -> Figures:
        """The figures of a finished run."""
        assert self.figures is not None
        return self.figures

    @property
    def outcome(self) -> tuple[object, ...]:
        """What any other way to run the same must also produce."""
        return self.placements, self.figures, self.waited, self.most_in_flight

    def route_ms(self) -> tuple[float, float]:
        """Median and 99th percentile of a Route call in milliseconds."""
        p50, p99 = np.percentile(self.route_s, [50, 99]) * 1e3
        return float(p50), float(p99)
