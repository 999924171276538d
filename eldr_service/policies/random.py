"""`random`: any eligible worker, each as likely.

Reads no signal. Parameter: `seed`.
"""

import numpy as np

from eldr_service.core.decision import Decision, FleetSnapshot, RequestView
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
