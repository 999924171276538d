"""Speculative decoding: which of the tokens that were computed stand."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class Drafts:
    """The experts of one answer's latest tokens, held back until vLLM has kept or rejected them.

    Positions before `settled` stand and have been told. `ends` is where the answer ends, once it
    has.
    """

    settled: int
    ends: int | None = None
    _experts: dict[int, NDArray[np.integer]] = field(default_factory=dict)

    def advance(self, before: int, after: int) -> range:
        """Positions that a step computes and that are not told yet; it begins after what stands."""
        return range(max(before, self.settled), after)

    def put(self, position: int, experts: NDArray[np.integer]) -> None:
        """The experts [L, top_k] of a token; of those at one position the latest hold."""
        self._experts[position] = experts

    def settle(self, stands: int) -> list[NDArray[np.integer]]:
        """The tokens before `stands` are kept, the others rejected; the experts of those kept."""
        kept = [experts for position, experts in self._experts.items() if position < stands]
        self._experts.clear()
        self.settled = max(self.settled, stands)
        return kept
