"""`power-of-two-choices`: the less loaded of two drawn at random.

Rule: draw two distinct eligible workers, every ordered pair as likely, and take the less loaded; on
a tie the first drawn. A single eligible worker is taken as it is. Load is in flight relative to
capacity, in the unit of the parameter `load`. The most loaded worker is never taken, and daemons
with different seeds that see the same old loads do not all pick the same worker.

A worker whose reports are stale counts by ELDR's own bookings. Parameters: `load`, `seed`.
"""

import numpy as np

from eldr_service.core.decision import Decision, FleetSnapshot, RequestView
from eldr_service.policies.draw import uniform_index
from eldr_service.policies.policy import Policy, SeededParameters


class PowerOfTwoChoices(Policy):
    """The less loaded of two distinct eligible workers."""

    name = "power-of-two-choices"
    description = "the less loaded of two eligible workers drawn at random"
    Parameters = SeededParameters
    parameters: SeededParameters

    def pick(self, request: RequestView, fleet: FleetSnapshot) -> Decision:
        """Draw two, take one."""
        eligible = np.flatnonzero(fleet.eligible)
        if eligible.size == 1:
            return Decision(int(eligible[0]))
        seed = self.parameters.seed
        i = uniform_index(seed, request.number, eligible.size)
        j = uniform_index(seed, request.number, eligible.size - 1, stream=1)
        j += j >= i  # of the others: step over the first drawn
        first, second = int(eligible[i]), int(eligible[j])
        return Decision(second if fleet.load[second] < fleet.load[first] else first)
