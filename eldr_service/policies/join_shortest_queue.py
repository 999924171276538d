"""`join-shortest-queue`: the least loaded worker.

Rule: of the eligible workers with the least load, one at random. Load is in flight relative to
capacity, in the unit of the parameter `load`; ties are exact.

A worker with stale reports counts by ELDR's own bookings. Parameters: `load`, `seed`.
"""

import numpy as np

from eldr_service.core.decision import Decision, FleetSnapshot, RequestView
from eldr_service.core.words import counted
from eldr_service.policies.draw import uniform_index
from eldr_service.policies.policy import Policy, SeededParameters
from eldr_service.policies.words import at_load, names


class JoinShortestQueue(Policy):
    """Picks the eligible worker with the least load; ties are broken uniformly at random."""

    name = "join-shortest-queue"
    description = "the least loaded eligible worker, ties at random"
    Parameters = SeededParameters
    parameters: SeededParameters

    def pick(self, request: RequestView, fleet: FleetSnapshot) -> Decision:
        """Take the least loaded."""
        load = np.where(fleet.eligible, fleet.load, np.inf)
        least = np.flatnonzero(load == load.min())
        drawn = uniform_index(self.parameters.seed, request.number, least.size)
        return Decision(int(least[drawn]))

    def explain(self, request: RequestView, fleet: FleetSnapshot, decision: Decision) -> str:
        """Say which worker was the least loaded, and how a tie was broken."""
        taken = at_load(fleet, decision.worker)
        equal = fleet.eligible & (fleet.load == fleet.load[decision.worker])
        of = counted(int(fleet.eligible.sum()), "eligible worker")
        if equal.sum() == 1:
            return f"least loaded of {of}: {taken}"
        return (
            f"least loaded of {of}, all equal: {names(fleet, equal)}; drawn of them: {taken}"
            f" (seed {self.parameters.seed}, decision {request.number})"
        )
