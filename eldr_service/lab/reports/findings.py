"""The results of a plan's runs, as arrays and as a document; nothing here draws."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eldr_service.lab.reports.plan import Plan, Sweep
from eldr_service.lab.simulation.comparison import COMPARED, LOAD_ONLY, Change, Figures, changes
from eldr_service.lab.simulation.contender import names
from eldr_service.lab.simulation.locality import mixed_active_experts
from eldr_service.lab.simulation.study import Run, Study, run_studies

TPOT = ("tpot_ms.p50", "tpot_ms.p99", "tpot_ms.mean")
FIGURES = (*COMPARED, "in_flight")
MIXED_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True, eq=False)
class Swept:
    """Figures of every policy along a sweep.

    Attributes
    ----------
    sweep : Sweep
    of_each_seed : tuple of dict of policy to list of Figures
        One dict per point, one entry per seed; the same policies at every point.
    copies : tuple of float
        For each point, the share of requests that arrived while every recording was in flight; for
        the policy with the most.
    """

    sweep: Sweep
    of_each_seed: tuple[dict[str, list[Figures]], ...]
    copies: tuple[float, ...]

    @property
    def policies(self) -> tuple[str, ...]:
        """All policies, including those that the parameter does not affect."""
        return tuple(self.of_each_seed[0])

    def values(self, policy: str, figure: str) -> NDArray[np.float64]:
        """Shape [points, seeds]."""
        return np.array([[one[figure] for one in at[policy]] for at in self.of_each_seed])

    def mean(self, policy: str, figure: str) -> NDArray[np.float64]:
        """Over seeds, shape [points]."""
        mean: NDArray[np.float64] = self.values(policy, figure).mean(axis=1)
        return mean

    @cached_property
    def changes(self) -> tuple[dict[tuple[str, str], Change], ...]:
        """By policy and figure, one dict per point; empty without a load-only policy."""
        return tuple({(c.policy, c.figure): c for c in changes(at)} for at in self.of_each_seed)


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything that a report shows.

    Attributes
    ----------
    plan : Plan
    base : dict of policy to list of Run, one per seed
    sweeps : dict of name to Swept
    mixed : list of (batch, active experts)
        For decode tokens of any requests: what a worker would use without routing.
    """

    plan: Plan
    base: dict[str, list[Run]]
    sweeps: dict[str, Swept]
    mixed: list[tuple[int, float]]

    @cached_property
    def names(self) -> dict[str, str]:
        """The name of each policy."""
        return names(self.base)

    @property
    def figures(self) -> dict[str, list[Figures]]:
        """The figures of the base study."""
        return _figures(self.base)

    @cached_property
    def changes(self) -> dict[tuple[str, str], Change]:
        """The changes in the base study, by policy and figure."""
        return {(change.policy, change.figure): change for change in changes(self.figures)}

    def mean(self, policy: str, figure: str) -> float:
        """Mean over seeds, in the base study."""
        return float(np.mean([run.figures[figure] for run in self.base[policy]]))

    @property
    def load_only(self) -> list[str]:
        """The policies that see load alone."""
        return [policy for policy in self.base if policy.partition(":")[0] in LOAD_ONLY]

    @property
    def others(self) -> list[str]:
        """The policies that see more."""
        return [policy for policy in self.base if policy not in self.load_only]

    def best_load_only(self, figure: str) -> str | None:
        """The load-only policy with the lowest mean over seeds."""
        return min(self.load_only, key=lambda p: self.mean(p, figure), default=None)

    @property
    def main(self) -> list[str]:
        """The best load-only policy by the median, and all policies that see more."""
        best = self.best_load_only(TPOT[0])
        return [*([best] if best else []), *self.others]


def find(plan: Plan, jobs: int, done: Callable[[], None] = lambda: None) -> Findings:
    """Run a plan; see `run_studies` for jobs, done and errors."""
    studies = plan.studies()
    runs = dict(zip(studies, run_studies(studies, jobs, done), strict=True))
    base = runs[plan.base]
    most = max(run.figures["in_flight"] for of_seed in base.values() for run in of_seed)
    batches = [b for b in MIXED_BATCHES if b <= 3 * most] or [1]
    return Findings(
        plan,
        base,
        {name: _swept(sweep, runs, base) for name, sweep in plan.sweeps.items()},
        [(batch, mixed_active_experts(plan.recording, batch)) for batch in batches],
    )


def _swept(
    sweep: Sweep,
    runs: Mapping[Study, dict[str, list[Run]]],
    base: dict[str, list[Run]],
) -> Swept:
    points = []
    for study in sweep.studies:
        # A variant keeps the policy's own name: the sweep says what is varied.
        own = dict(zip(sweep.policies, (runs[study][p] for p in study.policies), strict=True))
        points.append(_figures({policy: own.get(policy, base[policy]) for policy in base}))
    copies = tuple(
        max(
            sum(f["copies"] for f in each) / sum(f["requests"] for f in each)
            for each in at.values()
        )
        for at in points
    )
    return Swept(sweep, tuple(points), copies)


def _figures(runs: Mapping[str, list[Run]]) -> dict[str, list[Figures]]:
    return {policy: [run.figures for run in of_seed] for policy, of_seed in runs.items()}


def sweep_document(swept: Swept) -> dict[str, Any]:
    """For programs: each list has one entry per point."""
    return {
        "parameter": swept.sweep.parameter,
        "values": list(swept.sweep.values),
        "copies": list(swept.copies),
        "policies": {
            policy: {figure: swept.mean(policy, figure).tolist() for figure in FIGURES}
            for policy in swept.policies
        },
        "changes": [[asdict(change) for change in at.values()] for at in swept.changes],
    }
