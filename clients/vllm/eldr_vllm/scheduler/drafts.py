"""Speculative decoding: which of the computed tokens are kept."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class Drafts:
    """The experts of one answer's latest tokens, held back until vLLM keeps or rejects them.

    Positions before `settled` are kept and have been reported. `ends` is where the answer ends,
    once it has.
    """

    settled: int
    ends: int | None = None
    _experts: dict[int, NDArray[np.integer]] = field(default_factory=dict)

    def advance(self, before: int, after: int) -> range:
        """Positions that a step computes and that are not reported yet, after the kept ones."""
        return range(max(before, self.settled), after)

    def put(self, position: int, experts: NDArray[np.integer]) -> None:
        """The experts [L, top_k] of a token; the latest for a position replace earlier ones."""
        self._experts[position] = experts

    def settle(self, stands: int) -> list[NDArray[np.integer]]:
        """Tokens before `stands` are kept, others rejected; returns the experts of those kept."""
        kept = [experts for position, experts in self._experts.items() if position < stands]
        self._experts.clear()
        self.settled = max(self.settled, stands)
        return kept
