"""The experts that each worker's batch is expected to use, kept as requests come and go."""

import numpy as np
from numpy.typing import NDArray

from eldr_service.kernels import add_use, growth
from eldr_service.policies.packed_use import PackedUse
from eldr_service.policies.state import PolicyState


class Batches:
    """One row per worker; what a request adds is kept with its booking, and taken out exactly.

    Parameters
    ----------
    size : int
        Experts of all layers.
    """

    def __init__(self, size: int) -> None:
        self._sums = np.zeros((0, size), np.int32)
        self._unused = np.zeros((0, size), np.int8)
        self._active = np.zeros(0)

    def __len__(self) -> int:
        """Rows."""
        return len(self._active)

    def reach(self, rows: int) -> None:
        """Have so many rows at least."""
        if rows > len(self):
            more = max(rows, 2 * len(self)) - len(self)
            size = self._sums.shape[1]
            self._sums = np.concatenate([self._sums, np.zeros((more, size), np.int32)])
            unused = np.full((more, size), 127, np.int8)
            self._unused = np.concatenate([self._unused, unused])
            self._active = np.concatenate([self._active, np.zeros(more)])

    def add(self, row: int, use: PackedUse, times: int) -> None:
        """Put so many like requests into a row's batch, or (`times` below 0) take them out."""
        self.reach(row + 1)
        self._active[row] = add_use(use.data, times, self._sums[row], self._unused[row])

    def state(self) -> PolicyState:
        """All rows, for `restore`."""
        return {
            "sums": self._sums.copy(),
            "unused": self._unused.copy(),
            "active": self._active.copy(),
        }

    def restore(self, state: PolicyState) -> None:
        """Take over the rows that `state` gave."""
        self._sums, self._unused = state["sums"].copy(), state["unused"].copy()
        self._active = state["active"].copy()

    def active(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Distinct experts that a step is expected to use, over all layers."""
        return self._active[rows]

    def growth(
        self, rows: NDArray[np.int64], probabilities: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """How many more it would be with one more request."""
        return growth(self._unused, rows, probabilities)
