"""`random`: any eligible worker, each as likely.

Reads no signal. Parameter: `seed`.
"""

import numpy as np

from eldr_service.core.decision import Decision, FleetSnapshot, RequestView
from eldr_service.core.words import counted
from eldr_service.policies.draw import uniform_index
from eldr_service.policies.policy import Policy, SeededParameters


class Random(Policy):
    """A uniform draw from the eligible workers."""

    name = "random"
    description = "any eligible worker, each as likely"
    Parameters = SeededParameters
    parameters: SeededParameters

    def pick(self, request: RequestView, fleet: FleetSnapshot) -> Decision:
        """Draw one."""
        eligible = np.flatnonzero(fleet.eligible)
        drawn = uniform_index(self.parameters.seed, request.number, eligible.size)
        return Decision(int(eligible[drawn]))

    def explain(self, request: RequestView, fleet: FleetSnapshot, decision: Decision) -> str:
        """Say of how many it was drawn."""
        of = counted(int(fleet.eligible.sum()), "eligible worker")
        return (
            f"drawn from {of}, each as likely: {fleet.worker_ids[decision.worker]}"
            f" (seed {self.parameters.seed}, decision {request.number})"
        )
