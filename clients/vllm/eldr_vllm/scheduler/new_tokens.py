"""Which tokens of an answer a step computes for the first time."""

from dataclasses import dataclass


@dataclass(slots=True)
class NewTokens:
    """Follows one sequence; what is computed again after a preemption is not told again.

    Positions before `counted` are the prompt's, or have been told.
    """

    counted: int

    def advance(self, before: int, after: int) -> range:
        """Positions of the answer that a step, which computes `before` to below `after`, adds."""
        new = range(max(before, self.counted), after)
        self.counted = max(self.counted, after)
        return new
