"""The batches of the actual fleet, and of a hypothetical fleet placed by load alone."""

import numpy as np
from numpy.typing import NDArray

from eldr_service.kernels import add_terms, expected_active
from eldr_service.policies.packed_use import PackedUse

DONE, BY_LOAD = 0, 1
"""Index of the actual placements, and of those by load alone."""


class BothFleets:
    """Keeps only sums as requests come and go; experts are counted on demand.

    Parameters
    ----------
    size : int
        Experts of all layers.

    Attributes
    ----------
    sequences : ndarray of int64, shape [2, rows]
        Of `DONE` and `BY_LOAD`; do not write to it; replaced by `reach`.
    """

    def __init__(self, size: int) -> None:
        self._sums = np.zeros((2, 0, size), np.int32)
        self.sequences = np.zeros((2, 0), np.int64)

    def reach(self, rows: int) -> None:
        """Grow to at least `rows` rows."""
        before = self.sequences.shape[1]
        if rows > before:
            more = max(rows, 2 * before) - before
            self._sums = np.pad(self._sums, ((0, 0), (0, more), (0, 0)))
            self.sequences = np.pad(self.sequences, ((0, 0), (0, more)))

    def add(self, row: int, row_by_load: int, use: PackedUse, times: int) -> None:
        """Add `times` identical requests to both fleets, or remove them if `times` is negative."""
        self.reach(max(row, row_by_load) + 1)
        add_terms(use.data, times, self._sums[DONE, row], self._sums[BY_LOAD, row_by_load])
        self.sequences[DONE, row] += times
        self.sequences[BY_LOAD, row_by_load] += times

    def active(self, which: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Distinct experts, over all layers, that a step of these rows is expected to use."""
        return expected_active(self._sums[which], rows)
