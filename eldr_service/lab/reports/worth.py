"""How many workers each policy needs to reach a target."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eldr_service.lab.reports.findings import TPOT, Findings, Swept
from eldr_service.lab.simulation.comparison import interval

P50 = TPOT[0]


@dataclass(frozen=True, kw_only=True)
class Needed:
    """Workers that reach the target at the same rate.

    Attributes
    ----------
    policy : str
    fewest : int or None
        Of the numbers tried; None if none reaches it.
    exact : float or None
        Interpolated linearly between it and the next smaller one tried.
    at_most : bool
        Whether the smallest number tried reaches it: fewer may do.
    saved : float or None
        The exact number of the load-only policy that needs fewest, less its own: positive is
        better.
    interval : (float, float) or None
        Student's 95% interval of `saved` over paired seeds.
    """

    policy: str
    fewest: int | None
    exact: float | None
    at_most: bool
    saved: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Worth:
    """What each policy needs to reach a median TPOT of `target_ms`."""

    target_ms: float
    reference: str | None
    needed: dict[str, Needed]


def worth(findings: Findings, target_ms: float | None = None) -> Worth | None:
    """Evaluate the sweep of workers; None if there was none.

    Parameters
    ----------
    target_ms : float, optional
        By default that of the best load-only policy in the base study, or the best of all.
    """
    swept = findings.sweeps.get("workers")
    if swept is None:
        return None
    if target_ms is None:
        rivals = findings.load_only or list(findings.base)
        target_ms = min(findings.mean(policy, P50) for policy in rivals)
    workers = np.array(swept.sweep.values)
    exact = {p: _exact(workers, swept.mean(p, P50), target_ms) for p in swept.policies}
    reference = min(
        (p for p in findings.load_only if exact[p] is not None),
        key=lambda p: exact[p] or 0.0,
        default=None,
    )
    needed = {p: _needed(swept, p, reference, target_ms) for p in swept.policies}
    return Worth(target_ms, reference, needed)


def _needed(swept: Swept, policy: str, reference: str | None, target_ms: float) -> Needed:
    workers = np.array(swept.sweep.values)
    means = swept.mean(policy, P50)
    exact = _exact(workers, means, target_ms)
    keeping = workers[means <= target_ms]
    fewest = int(keeping[0]) if len(keeping) else None
    saved, within = None, None
    if reference is not None and exact is not None and policy != reference:
        saved = (_exact(workers, swept.mean(reference, P50), target_ms) or 0.0) - exact
        within = interval(_saved_by_seed(swept, policy, reference, target_ms))
    return Needed(
        policy=policy,
        fewest=fewest,
        exact=exact,
        at_most=bool(fewest == workers[0]),
        saved=saved,
        interval=within,
    )


def _saved_by_seed(
    swept: Swept, policy: str, reference: str, target_ms: float
) -> NDArray[np.float64]:
    """One entry per seed; None if some seed's line does not reach the target."""
    workers = np.array(swept.sweep.values)
    saved: list[float] = []
    for own, rival in zip(swept.values(policy, P50).T, swept.values(reference, P50).T, strict=True):
        less, more = (_exact(workers, line, target_ms) for line in (own, rival))
        if less is None or more is None:
            return np.empty(0)
        saved.append(more - less)
    return np.array(saved)


def _exact(
    workers: NDArray[np.float64], tpot_ms: Sequence[float] | NDArray[np.float64], target_ms: float
) -> float | None:
    """Where the line through the points, from the left, first reaches the target."""
    keeps = np.flatnonzero(np.asarray(tpot_ms) <= target_ms)
    if not len(keeps):
        return None
    i = int(keeps[0])
    if i == 0:
        return float(workers[0])
    share = (tpot_ms[i - 1] - target_ms) / (tpot_ms[i - 1] - tpot_ms[i])
    return float(workers[i - 1] + share * (workers[i] - workers[i - 1]))
