"""Activation counts of the answers in progress, one row per booking."""

import numpy as np
from numba import types
from numpy.typing import NDArray

from eldr_vllm.compiling import kernel, readonly


class DecodeCounts:
    """A fixed number of rows, so that memory is bounded; not thread-safe.

    Parameters
    ----------
    num_rows : int
        Bookings that can be counted at the same time.
    num_experts : int
        Per layer. The number of layers is known from the first experts.
    """

    def __init__(self, num_rows: int, num_experts: int) -> None:
        self._shape = num_rows, num_experts
        self._free = list(reversed(range(num_rows)))
        self._counts: NDArray[np.uint32] | None = None

    def open(self) -> int | None:
        """A row of zeros, or None if all are in use."""
        return self._free.pop() if self._free else None

    def add(self, rows: NDArray[np.int64], experts: NDArray[np.integer]) -> None:
        """Count a step's tokens.

        Parameters
        ----------
        rows : ndarray of int64, shape [n]
            The row of each token's booking.
        experts : ndarray of uint8 or int16, shape [n, L, top_k]
        """
        if self._counts is None:
            num_rows, num_experts = self._shape
            self._counts = np.zeros((num_rows, experts.shape[1], num_experts), np.uint32)
        _add_picks(self._counts, rows, experts)

    def close(self, row: int) -> NDArray[np.uint32] | None:
        """The counts [L, E] of a row, which is then free; None if nothing was counted."""
        self._free.append(row)
        if self._counts is None or not self._counts[row].any():
            return None
        counts = self._counts[row].copy()
        self._counts[row] = 0
        return counts


@kernel(
    *(
        types.void(types.Array(types.uint32, 3, "C"), readonly(types.int64, 1), readonly(ids, 3))
        for ids in (types.uint8, types.int16)
    )
)
def _add_picks(
    counts: NDArray[np.uint32], rows: NDArray[np.int64], experts: NDArray[np.integer]
) -> None:
    """Add the picks of each token, `experts` [n, L, k], to its row of `counts` [rows, L, E].

    A token with an expert that the model does not have is left out, in all layers.
    """
    num_experts = counts.shape[2]
    tokens, layers, picks = experts.shape
    for token in range(tokens):
        valid = True
        for layer in range(layers):
            for pick in range(picks):
                valid &= 0 <= experts[token, layer, pick] < num_experts
        if not valid:
            continue
        for layer in range(layers):
            for pick in range(picks):
                counts[rows[token], layer, experts[token, layer, pick]] += 1
