"""`random`: any eligible worker, all equally likely.

Reads no signal. Parameter: `seed`.
"""

import numpy as np

from eldr_service.core.decision import Decision, FleetSnapshot, RequestView
from eldr_service.core.words import counted
from eldr_service.policies.draw import uniform_index
from eldr_service.policies.policy import Policy, SeededParameters


class Random(Policy):
    """Picks an eligible worker uniformly at random."""

    name = "random"
    description = "any eligible worker, all equally likely"
    Parameters = SeededParameters
    parameters: SeededParameters

    def pick(self, request: RequestView, fleet: FleetSnapshot) -> Decision:
        """Draw one."""
        eligible = np.flatnonzero(fleet.eligible)
        drawn = uniform_index(self.parameters.seed, request.number, eligible.size)
        return Decision(int(eligible[drawn]))

    def explain(self, request: RequestView, fleet: FleetSnapshot, decision: Decision) -> str:
        """Say from how many workers it was drawn."""
        of = counted(int(fleet.eligible.sum()), "eligible worker")
        return (
            f"drawn from {of}, all equally likely: {fleet.worker_ids[decision.worker]}"
            f" (seed {self.parameters.seed}, decision {request.number})"
        )
