"""Which tokens of an answer a step computes for the first time."""

from dataclasses import dataclass


@dataclass(slots=True)
class NewTokens:
    """Follows one sequence; tokens recomputed after a preemption are not reported again.

    Positions before `counted` belong to the prompt, or were reported.
    """

    counted: int

    def advance(self, before: int, after: int) -> range:
        """Positions of the answer that a step adds by computing `before` to below `after`."""
        new = range(max(before, self.counted), after)
        self.counted = max(self.counted, after)
        return new
