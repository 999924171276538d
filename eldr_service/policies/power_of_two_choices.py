"""`power-of-two-choices`: the less loaded of two drawn at random.

Rule: draw two distinct eligible workers, every ordered pair equally likely, and take the less
loaded; on a tie, the first drawn. A single eligible worker is taken without a draw. Load is in
flight relative to capacity, in the unit of the parameter `load`. The most loaded worker is never
taken, and daemons with different seeds that see the same stale loads do not all pick the same
worker.

A worker with stale reports counts by ELDR's own bookings. Parameters: `load`, `seed`.
"""

import numpy as np

from eldr_service.core.decision import Decision, FleetSnapshot, RequestView
from eldr_service.core.words import counted
from eldr_service.policies.draw import uniform_index
from eldr_service.policies.policy import Policy, SeededParameters
from eldr_service.policies.words import at_load


class PowerOfTwoChoices(Policy):
    """Picks the less loaded of two distinct eligible workers."""

    name = "power-of-two-choices"
    description = "the less loaded of two eligible workers drawn at random"
    Parameters = SeededParameters
    parameters: SeededParameters

    def pick(self, request: RequestView, fleet: FleetSnapshot) -> Decision:
        """Draw two workers, take one."""
        first, second = self._drawn(request, fleet)
        return Decision(second if fleet.load[second] < fleet.load[first] else first)

    def explain(self, request: RequestView, fleet: FleetSnapshot, decision: Decision) -> str:
        """Say which two were drawn."""
        first, second = self._drawn(request, fleet)
        if first == second:
            return f"the only eligible worker: {at_load(fleet, first)}"
        alike = fleet.load[first] == fleet.load[second]
        said = "equally loaded, so the first drawn" if alike else "the less loaded of them"
        return (
            f"drawn of {counted(int(fleet.eligible.sum()), 'eligible worker')}:"
            f" {at_load(fleet, first)}, then {at_load(fleet, second)}"
            f" (seed {self.parameters.seed}, decision {request.number});"
            f" {said}: {fleet.worker_ids[decision.worker]}"
        )

    def _drawn(self, request: RequestView, fleet: FleetSnapshot) -> tuple[int, int]:
        """Two distinct eligible workers, or the only one twice."""
        eligible = np.flatnonzero(fleet.eligible)
        if eligible.size == 1:
            return int(eligible[0]), int(eligible[0])
        seed = self.parameters.seed
        i = uniform_index(seed, request.number, eligible.size)
        j = uniform_index(seed, request.number, eligible.size - 1, stream=1)
        j += j >= i  # of the others: skip the first drawn
        return int(eligible[i]), int(eligible[j])
