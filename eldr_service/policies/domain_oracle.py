"""`domain-oracle`: what routing could gain if it knew each request's domain.

For evaluation only: in service the domain is unknown, and signatures stand in for it.

Rule: the candidates are the eligible workers whose label `domain`, a comma-separated list, contains
the request's label `domain`. The least loaded candidate is taken; of equals, the one that
registered first. If the request has no such label, or no worker matches, all eligible workers are
candidates.
"""

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.decision import Decision, FleetSnapshot, RequestView
from eldr_service.policies.policy import Policy
from eldr_service.policies.words import least_loaded_of


class DomainOracle(Policy):
    """Picks the least loaded eligible worker of the request's own domain."""

    name = "domain-oracle"
    description = "for evaluation: the least loaded worker labelled with the request's domain"

    def pick(self, request: RequestView, fleet: FleetSnapshot) -> Decision:
        """Take the least loaded of the domain's workers."""
        candidates = _candidates(request, fleet)
        if not candidates.any():
            candidates = fleet.eligible
        worker = int(np.argmin(np.where(candidates, fleet.load, np.inf)))
        return Decision(worker, in_band=candidates)

    def explain(self, request: RequestView, fleet: FleetSnapshot, decision: Decision) -> str:
        """Say which workers serve the request's domain."""
        candidates, domain = _candidates(request, fleet), request.labels.get("domain")
        if candidates.any():
            said = f"labelled with the request's domain {domain!r}"
        else:
            candidates = fleet.eligible
            said = f"no eligible worker is labelled with the request's domain {domain!r}, so all"
            if domain is None:
                said = "the request has no label domain, so all eligible workers"
        return f"{said}: {least_loaded_of(fleet, candidates, decision.worker)}"


def _candidates(request: RequestView, fleet: FleetSnapshot) -> NDArray[np.bool_]:
    domain = request.labels.get("domain")
    serves = [domain in _domains(labels.get("domain", "")) for labels in fleet.labels]
    candidates: NDArray[np.bool_] = fleet.eligible & np.array(serves)
    return candidates


def _domains(label: str) -> set[str]:
    return {domain.strip() for domain in label.split(",")} - {""}
