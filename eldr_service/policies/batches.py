"""The experts that each worker's batch is expected to use, updated as requests come and go."""

import numpy as np
from numpy.typing import NDArray

from eldr_service.kernels import add_use, growth
from eldr_service.policies.packed_use import PackedUse
from eldr_service.policies.state import PolicyState

_ROWS = ("sums", "unused", "unused_at_mean", "active", "requests")


class Batches:
    """One row per worker. What a request adds is kept with its booking, and subtracted exactly.

    Each row is also kept as if its batch had the mean size of all rows with requests, as of the
    row's last change.

    Parameters
    ----------
    size : int
        Experts of all layers.
    """

    def __init__(self, size: int) -> None:
        self._sums = np.zeros((0, size), np.int32)
        self._unused = np.zeros((0, size), np.int8)
        self._unused_at_mean = np.zeros((0, size), np.int8)
        self._active = np.zeros(0)
        self._requests = np.zeros(0, np.int64)

    def __len__(self) -> int:
        """Rows."""
        return len(self._active)

    def reach(self, rows: int) -> None:
        """Grow to at least `rows` rows."""
        if rows > len(self):
            more = max(rows, 2 * len(self)) - len(self)
            size = self._sums.shape[1]
            self._sums = np.concatenate([self._sums, np.zeros((more, size), np.int32)])
            unused = np.full((more, size), 127, np.int8)
            self._unused = np.concatenate([self._unused, unused])
            self._unused_at_mean = np.concatenate([self._unused_at_mean, unused])
            self._active = np.concatenate([self._active, np.zeros(more)])
            self._requests = np.concatenate([self._requests, np.zeros(more, np.int64)])

    def add(self, row: int, use: PackedUse, times: int) -> None:
        """Add `times` identical requests to a row's batch; remove them if `times` is negative."""
        self.reach(row + 1)
        self._requests[row] += times
        own = self._requests[row]
        resized = self._requests.sum() / np.count_nonzero(self._requests) / own if own else 0.0
        self._active[row] = add_use(
            use.data,
            times,
            resized,
            self._sums[row],
            self._unused[row],
            self._unused_at_mean[row],
        )

    def state(self) -> PolicyState:
        """All rows, for `restore`."""
        return {name: getattr(self, f"_{name}").copy() for name in _ROWS}

    def restore(self, state: PolicyState) -> None:
        """Restore the rows from `state`."""
        for name in _ROWS:
            setattr(self, f"_{name}", state[name].copy())

    def rows(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.int8], NDArray[np.int8],
                                         NDArray[np.int64]]:  # fmt: skip
        """Sums, unused, unused at the mean size, and requests, of at least `number` rows.

        The arrays are the batches' own: do not write to them.
        """
        self.reach(number)
        return self._sums, self._unused, self._unused_at_mean, self._requests

    def active(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Distinct experts, over all layers, that a step is expected to use."""
        return self._active[rows]

    def growth(
        self, rows: NDArray[np.int64], probabilities: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Distinct experts that one more request would add to each row."""
        return growth(self._unused, rows, probabilities)

    def growth_at_mean(
        self, rows: NDArray[np.int64], probabilities: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """The same, if every batch had the mean size."""
        return growth(self._unused_at_mean, rows, probabilities)
