"""One decision: the eligible workers, the policy's pick, the alternates. Books nothing."""

from typing import NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray

from eldr_service.core.decision import Decision, FleetSnapshot, Reason, RequestView
from eldr_service.core.errors import ResourceExhaustedError, UnavailableError
from eldr_service.core.worker import Avoidance
from eldr_service.kernels import best_first
from eldr_service.policies.policy import Policy, SignatureParameters
from eldr_service.routing.call import RouteCall

log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS = 0.1
AT_CAPACITY = "it is at its capacity"
OTHER_GROUP = "it is not in the prefill worker's group, which can take the request"
AVOIDED = {
    Avoidance.SLOW: "it is several times slower than its peers, and others can take the request",
    Avoidance.HELD_DOWN: "it left and came back too often, and others can take the request",
    Avoidance.SUSPECT: "it has been silent for too long, and others can take the request",
}


class Filters(NamedTuple):
    """Which workers a request may go to, and why not to the others.

    Attributes
    ----------
    eligible : ndarray of bool, one per worker
    steps : tuple of (reason in words, ndarray of bool)
        The filters in order; a worker is eligible if all let it pass.
    last_resort : int
        The worker of the previous attempt, which comes after all others; -1 for none.
    later : ndarray of int, or None
        Above 0 for workers that could take it if no preferred one is left; lower is better.
    """

    eligible: NDArray[np.bool_]
    steps: tuple[tuple[str, NDArray[np.bool_]], ...]
    last_resort: int = -1
    later: NDArray[np.int64] | None = None

    def why_not(self, worker: int) -> str:
        """The first filter that rejects a worker; empty if it is eligible."""
        if worker == self.last_resort:
            return "failed an earlier attempt of this request, so it is tried last"
        return next((reason for reason, passes in self.steps if not passes[worker]), "")


def apply_filters(
    call: RouteCall,
    fleet: FleetSnapshot,
    groups: tuple[str, ...],
    group: str,
    earlier: str,
    other_groups: bool = False,
) -> Filters:
    """Reduce the READY workers to those that the request may go to.

    Parameters
    ----------
    groups : tuple of str
        The group of each worker; empty for one that fits any.
    group : str
        The prefill worker's; empty does not restrict.
    earlier : str
        The worker of the previous attempt, which is tried last.
    other_groups : bool
        Whether workers of other groups are taken if none of the group can be.

    Raises
    ------
    UnavailableError
        No worker passes.
    ResourceExhaustedError
        Some pass, but all of them are full.
    """
    ids = fleet.worker_ids
    n = len(ids)
    steps = [("it is not READY", fleet.eligible)]

    def restrict(reason: str, passing: list[bool]) -> None:
        steps.append((reason, np.fromiter(passing, np.bool_, n)))

    in_group = None
    if group:
        passing = [g in ("", group) for g in groups]  # a worker without a group takes KV from any
        if other_groups:
            in_group = np.fromiter(passing, np.bool_, n)
        else:
            restrict(f"it is not in the prefill worker's group {group}", passing)
    if call.pinned_worker:
        restrict("another worker is pinned", [i == call.pinned_worker for i in ids])
    if call.candidate_workers:
        restrict("it is not a candidate", [i in call.candidate_workers for i in ids])
    if call.exclude_workers:
        restrict("it is excluded", [i not in call.exclude_workers for i in ids])
    if call.worker_selector:
        wanted = call.worker_selector.items()
        restrict("its labels do not match", [wanted <= labels.items() for labels in fleet.labels])
    allowed = fleet.eligible
    for _, passes in steps[1:]:
        allowed = allowed & passes
    if not np.count_nonzero(allowed):  # several times faster than any()
        raise UnavailableError(
            f"model {call.model} has no READY decode worker that passes the request's filters"
            f" ({n} known)"
        )
    below_capacity = fleet.sequences < fleet.capacity
    eligible = allowed & below_capacity
    if not np.count_nonzero(eligible):
        raise ResourceExhaustedError(
            f"all {int(allowed.sum())} eligible workers of model {call.model} are at capacity",
            RETRY_AFTER_SECONDS,
            call.limits(group),
        )
    last_resort = -1
    if earlier and earlier in ids and eligible[ids.index(earlier)] and eligible.sum() > 1:
        last_resort = ids.index(earlier)
        eligible[last_resort] = False
    later = None
    if fleet.avoided is not None or in_group is not None:
        eligible, later, soft = _preferred(eligible, fleet.avoided, in_group)
        steps.extend(soft)
    steps.append((AT_CAPACITY, below_capacity))
    return Filters(eligible, tuple(steps), last_resort, later)


def _preferred(
    eligible: NDArray[np.bool_],
    avoided: NDArray[np.int8] | None,
    in_group: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.bool_], NDArray[np.int64], list[tuple[str, NDArray[np.bool_]]]]:
    """The best of the eligible workers, the ranks of the others, and the filters between them.

    Another group ranks below all of this group except suspects, which may be dead.
    """
    rank = np.zeros(len(eligible), np.int64)
    if avoided is not None:
        rank += 2 * avoided
    if in_group is not None:
        rank += np.where(in_group, 0, 2 * Avoidance.SUSPECT - 1)
    later = np.where(eligible & (rank > rank[eligible].min()), rank, 0)
    steps = []
    if in_group is not None:
        steps.append((OTHER_GROUP, in_group | (later == 0)))
    if avoided is not None:
        kinds = sorted(set(avoided[later > 0].tolist()) - {Avoidance.NONE})
        steps.extend((AVOIDED[kind], (avoided != kind) | (later == 0)) for kind in kinds)
    return eligible & (later == 0), later, steps


def decide(
    policy: Policy,
    request: RequestView,
    fleet: FleetSnapshot,
    *,
    model: str,
    pinned: bool,
    declared: bool,
) -> Decision:
    """Ask the policy, or give the fallback that the situation calls for.

    `declared` is whether the model's geometry is declared.
    """
    if pinned:
        return Decision(int(np.argmax(fleet.eligible)), Reason.PINNED)
    if lesser := _lesser_reason(policy, request, fleet, declared):
        return Decision(fleet.least_loaded(), lesser)
    try:
        decision = policy.pick(request, fleet)
        _check(decision, fleet)
    except Exception:  # a policy may be foreign code, and no request may fail because of it
        log.exception("policy failed", model=model, policy=policy.name)
        return Decision(fleet.least_loaded(), Reason.LEAST_LOADED_POLICY_ERROR)
    return decision


def _check(decision: Decision, fleet: FleetSnapshot) -> None:
    worker, n = decision.worker, len(fleet.worker_ids)
    if not 0 <= worker < n or not fleet.eligible[worker]:
        raise ValueError(f"worker {worker} was chosen, which is not eligible")
    for name in ("similarity", "in_band", "predicted_active_experts"):
        values = getattr(decision, name)
        if values is not None and values.shape != (n,):
            raise ValueError(f"{name} has shape {values.shape}, not one entry for each of {n}")


def _lesser_reason(
    policy: Policy, request: RequestView, fleet: FleetSnapshot, declared: bool
) -> Reason | None:
    if not (policy.needs_signature or policy.needs_counts):
        return None
    if request.counts is None:
        return Reason.LEAST_LOADED_NO_SIGNATURE
    if policy.needs_counts and not declared:  # counts never define a geometry
        return Reason.LEAST_LOADED_NO_PARTITION
    parameters = policy.parameters
    if isinstance(parameters, SignatureParameters) and request.coverage < parameters.min_coverage:
        return Reason.LEAST_LOADED_LOW_COVERAGE
    if not policy.needs_signature:
        return None
    if fleet.quantised is None:
        return Reason.LEAST_LOADED_NO_PARTITION
    if request.signature is None:
        return Reason.LEAST_LOADED_NO_SIGNATURE
    return None


def alternates(decision: Decision, fleet: FleetSnapshot, filters: Filters, most: int) -> list[int]:
    """Workers to try next: the rest of the band, other eligible ones by load, later ones."""
    band = fleet.eligible if decision.in_band is None else decision.in_band
    rest: list[int] = best_first(fleet.eligible, band, fleet.load, decision.worker, most).tolist()
    if filters.later is not None and len(rest) < most:
        others = np.flatnonzero(filters.later)
        order = np.lexsort((fleet.load[others], filters.later[others]))
        rest += others[order][: most - len(rest)].tolist()
    if filters.last_resort >= 0 and len(rest) < most:
        rest.append(filters.last_resort)
    return rest
