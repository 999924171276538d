"""`domain-oracle`: what routing could gain if it were told each request's domain.

For evaluation only: in service the domain is unknown, which is what signatures stand in for.

Rule: the candidates are the eligible workers whose label `domain`, a comma-separated list, holds
the request's label `domain`; the least loaded of them is taken, of equals the one that registered
first. Without such a label on the request, or such a worker, all eligible workers are candidates.
"""

import numpy as np

from eldr_service.core.decision import Decision, FleetSnapshot, RequestView
from eldr_service.policies.policy import Policy


class DomainOracle(Policy):
    """The least loaded eligible worker of the request's own domain."""

    name = "domain-oracle"
    description = "for evaluation: the least loaded worker labelled with the request's domain"

    def pick(self, request: RequestView, fleet: FleetSnapshot) -> Decision:
        """Take the least loaded of the domain's workers."""
        domain = request.labels.get("domain")
        serves = [domain in _domains(labels.get("domain", "")) for labels in fleet.labels]
        candidates = fleet.eligible & np.array(serves)
        if not candidates.any():
            candidates = fleet.eligible
        worker = int(np.argmin(np.where(candidates, fleet.load, np.inf)))
        return Decision(worker, in_band=candidates)


def _domains(label: str) -> set[str]:
    return {domain.strip() for domain in label.split(",")} - {""}
