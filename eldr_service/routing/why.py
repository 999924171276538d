"""Explains a decision: how each worker looked, and the rule that chose this one."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray

from eldr_service.core.decision import Decision, FleetSnapshot, Reason, RequestView
from eldr_service.core.words import counted
from eldr_service.policies.policy import Policy, SignatureParameters
from eldr_service.policies.words import at_load
from eldr_service.routing.decide import Filters

log = structlog.get_logger(__name__)


class Basis(NamedTuple):
    """What a decision saw, and what it was."""

    fleet: FleetSnapshot
    filters: Filters
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerScore:
    """How one worker looked at the decision. None if unknown; ages in seconds."""

    worker_id: str
    ineligible_reason: str
    similarity: float | None
    load: float
    in_band: bool
    predicted_active_experts: float | None
    cost: float | None
    report_age: float | None
    stale: bool
    cached_tokens: int


def scores(basis: Basis, now: float) -> tuple[WorkerScore, ...]:
    """Scores of all workers for a decision made at `now`, in order of registration."""
    fleet, filters, decision = basis
    reported_at = fleet.reported_at
    similarity = decision.best_known_similarity
    return tuple(
        WorkerScore(
            worker_id=worker_id,
            ineligible_reason=filters.why_not(i),
            similarity=number_at(similarity, i),
            load=float(fleet.load[i]),
            in_band=bool(decision.in_band is not None and decision.in_band[i]),
            predicted_active_experts=number_at(decision.predicted_active_experts, i),
            cost=number_at(decision.cost, i),
            report_age=number_at(None if reported_at is None else now - reported_at, i),
            stale=bool(fleet.stale[i]),
            cached_tokens=0 if fleet.cached_tokens is None else int(fleet.cached_tokens[i]),
        )
        for i, worker_id in enumerate(fleet.worker_ids)
    )


def number_at(values: NDArray[np.float64] | None, index: int) -> float | None:
    """An entry; None if it is NaN, or if there are none."""
    value = math.nan if values is None else float(values[index])
    return None if math.isnan(value) else value


def in_words(policy: Policy, request: RequestView, fleet: FleetSnapshot, decision: Decision) -> str:
    """The rule that chose this worker, with its numbers.

    `policy` needs only its parameters.
    """
    if decision.reason is Reason.PINNED:
        return f"pinned by the caller: {at_load(fleet, decision.worker)}"
    if lesser := _why_lesser(policy, request, decision.reason):
        of = counted(int(fleet.eligible.sum()), "eligible worker")
        return f"{lesser}, so the least loaded of {of}: {at_load(fleet, decision.worker)}"
    try:
        return policy.explain(request, fleet, decision)
    except Exception:  # as for `pick`: it may be foreign code
        log.exception("policy failed", policy=policy.name)
        return Policy.explain(policy, request, fleet, decision)


def _why_lesser(policy: Policy, request: RequestView, reason: Reason) -> str:
    match reason:
        case Reason.LEAST_LOADED_NO_SIGNATURE if request.coverage:
            return "the request's signature is zero in the layers that the partition compares"
        case Reason.LEAST_LOADED_NO_SIGNATURE:
            return "the request has no signature"
        case Reason.LEAST_LOADED_LOW_COVERAGE:
            parameters = policy.parameters
            assert isinstance(parameters, SignatureParameters)  # other policies require no coverage
            return (
                f"the experts of {request.coverage:.0%} of the prompt are known,"
                f" below min_coverage {parameters.min_coverage:g}"
            )
        case Reason.LEAST_LOADED_NO_PARTITION:
            return "the model has no partition"
        case Reason.LEAST_LOADED_POLICY_ERROR:
            return f"the policy {policy.name} failed (its error is in the daemon's log)"
    return ""
