"""Signatures of many requests, dense or sparse; `core.signature` has the formula.

Dense ones are in float32 except the norm, so they are within 4e-7 of the router's, relatively.
"""

import numpy as np
from numba import boolean, float32, float64, int32, int64, types, uint32
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, readonly
from eldr_service.kernels.threads import over_rows


def dense_signatures(
    counts: NDArray[np.integer],
    layers: NDArray[np.int64],
    weights: NDArray[np.float32],
    square_root: bool,
) -> NDArray[np.float32]:
    """Signatures of dense counts.

    Parameters
    ----------
    counts : ndarray of int, shape [n, L, E]
        Each below 2^32.
    layers : ndarray of int64, shape [m]
        The layers kept, each 0 to L - 1.
    weights : ndarray of float32, shape [m, E]
        Factors of the kept counts: idf, or ones.
    square_root : bool
        Take the square root of the counts before weighting them.

    Returns
    -------
    ndarray of float32, shape [n, m * E]
        Rows of unit length, zero where the norm is zero.
    """
    result = np.empty((len(counts), weights.size), np.float32)

    def run(first: int, last: int) -> None:
        part = np.ascontiguousarray(counts[first:last], np.uint32)
        _dense(part, layers, weights, square_root, result[first:last])

    over_rows(run, len(counts), work=counts.size)
    return result


def sparse_signatures(
    counts: NDArray[np.uint32],
    columns: NDArray[np.int32],
    starts: NDArray[np.int64],
    factors: NDArray[np.float64],
    square_root: bool,
) -> NDArray[np.float32]:
    """Entries of the signatures of sparse rows of counts.

    Parameters
    ----------
    counts : ndarray of uint32, shape [entries]
    columns : ndarray of int32, shape [entries]
        Layer x E + expert of each.
    starts : ndarray of int64, shape [n + 1]
        Row i has the entries ``starts[i]`` to ``starts[i + 1] - 1``.
    factors : ndarray of float64, shape [L * E]
        By column: idf, or one; zero for layers left out.
    square_root : bool

    Returns
    -------
    ndarray of float32, shape [entries]
        In the columns of the counts.
    """
    values = np.empty(len(counts), np.float32)
    over_rows(
        lambda first, last: _sparse(
            counts, columns, starts, factors, square_root, first, last, values
        ),
        len(starts) - 1,
        work=len(counts),
    )
    return values


@kernel(types.Array(boolean, 1, "C")(readonly(float32, 2)), nogil=True)
def nonzero_rows(signatures: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which rows of `signatures` [n, D] are not all zero; each is read to its first such entry."""
    result = np.zeros(len(signatures), np.bool_)
    for i in range(len(signatures)):
        for value in signatures[i]:
            if value != 0.0:
                result[i] = True
                break
    return result


@kernel(
    types.void(
        readonly(uint32, 3),
        readonly(int64, 1),
        readonly(float32, 2),
        boolean,
        types.Array(float32, 2, "C"),
    ),
    nogil=True,
    fastmath={"reassoc"},  # of the sum of squares, as in `kernels.core.signature`
)
def _dense(
    counts: NDArray[np.uint32],
    layers: NDArray[np.int64],
    weights: NDArray[np.float32],
    square_root: bool,
    result: NDArray[np.float32],
) -> None:
    kept, experts = weights.shape
    for i in range(len(counts)):
        squares = 0.0
        for row in range(kept):
            picks = counts[i, layers[row]]
            for expert in range(experts):
                weight = float64(weights[row, expert])
                value = float64(picks[expert])
                squares += (value if square_root else value * value) * weight * weight
        scale = np.float32(1.0 / np.sqrt(squares)) if squares > 0.0 else np.float32(0.0)
        for row in range(kept):
            picks = counts[i, layers[row]]
            values = result[i, row * experts : (row + 1) * experts]
            for expert in range(experts):
                value = np.float32(picks[expert])
                if square_root:
                    value = np.sqrt(value)
                values[expert] = value * weights[row, expert] * scale


@kernel(
    types.void(
        readonly(uint32, 1),
        readonly(int32, 1),
        readonly(int64, 1),
        readonly(float64, 1),
        boolean,
        int64,
        int64,
        types.Array(float32, 1, "C"),
    ),
    nogil=True,
)
def _sparse(
    counts: NDArray[np.uint32],
    columns: NDArray[np.int32],
    starts: NDArray[np.int64],
    factors: NDArray[np.float64],
    square_root: bool,
    first: int,
    last: int,
    values: NDArray[np.float32],
) -> None:
    for i in range(first, last):
        squares = 0.0
        for p in range(starts[i], starts[i + 1]):
            value = float(counts[p])
            if square_root:
                value = np.sqrt(value)
            value *= factors[columns[p]]
            squares += value * value
        scale = 1.0 / np.sqrt(squares) if squares > 0.0 else 0.0
        for p in range(starts[i], starts[i + 1]):
            value = float(counts[p])
            if square_root:
                value = np.sqrt(value)
            values[p] = value * factors[columns[p]] * scale
