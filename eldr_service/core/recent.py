"""The activation counts that were placed lately, to fit a partition on."""

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.activation import Counts


class RecentCounts:
    """The latest whole counts of one geometry, in a bounded memory.

    Parameters
    ----------
    max_bytes : int
    """

    def __init__(self, max_bytes: int = 64 << 20) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._counts: deque[NDArray[Any]] = deque()

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, counts: Counts) -> None:
        """Keep counts [num_layers, num_experts]; another shape than before starts anew."""
        if self._counts and self._counts[0].shape != counts.shape:
            self.clear()
        packed = counts.astype(np.uint16 if counts.max(initial=0) <= 0xFFFF else np.uint32)
        self._counts.append(packed)
        self.nbytes += packed.nbytes
        while self.nbytes > self.max_bytes:
            self.nbytes -= self._counts.popleft().nbytes

    def clear(self) -> None:
        """Forget all."""
        self._counts.clear()
        self.nbytes = 0

    def stacked(self) -> NDArray[np.uint32]:
        """All of them, shape [n, num_layers, num_experts], the oldest first."""
        return np.array(self._counts, dtype=np.uint32)
