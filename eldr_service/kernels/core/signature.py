"""From activation counts to a unit signature, in two passes over the kept rows."""

import numpy as np
from numba import boolean, float32, float64, int64, njit, types, uint16, uint32
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, readonly

_TABLE = 4_096  # counts below this are looked up


def _of(counts: types.Type) -> types.Type:
    result = types.Tuple((types.Array(float32, 1, "C"), float64))
    return result(readonly(counts, 2), readonly(int64, 1), readonly(float32, 2), boolean)


@njit
def _largest(counts: NDArray[np.uint16], layers: NDArray[np.int64]) -> int:
    most = uint32(0)
    for layer in layers:
        row = counts[layer]
        for expert in range(len(row)):
            most = max(most, uint32(row[expert]))
    largest: int = int64(most)
    return largest


@njit
def _value(count: float, square_root: bool) -> float:
    return np.sqrt(count) if square_root else count


# Reordering the sum moves the norm by about 1e-16, and lets it use vector registers.
@njit(fastmath={"reassoc", "contract"})
def _norm(
    counts: NDArray[np.uint16],
    layers: NDArray[np.int64],
    weights: NDArray[np.float32],
    square_root: bool,
) -> float:
    squares = 0.0
    for kept in range(len(layers)):
        row = counts[layers[kept]]
        for expert in range(len(row)):
            count = float64(row[expert])
            square = count if square_root else count * count
            if len(weights):
                square *= float64(weights[kept, expert]) * float64(weights[kept, expert])
            squares += square
    norm: float = np.sqrt(squares)
    return norm


@kernel([_of(uint16), _of(uint32)])
def transform_signature(
    counts: NDArray[np.uint16] | NDArray[np.uint32],
    layers: NDArray[np.int64],
    weights: NDArray[np.float32],
    square_root: bool,
) -> tuple[NDArray[np.float32], float]:
    """Make the signature of one request; the formula is that of `core.signature`.

    Parameters
    ----------
    counts : ndarray of uint16 or uint32, shape [L, E]
    layers : ndarray of int64, shape [m]
        The layers kept, each 0 to L - 1.
    weights : ndarray of float32, shape [m, E], or [0, 0] for ones
        Factors of the kept counts: idf.
    square_root : bool
        Take the square root of the counts before weighting them.

    Returns
    -------
    signature : ndarray of float32, shape [m * E]
        Of unit L2 length; all zeros where the norm is zero.
    norm : float
        Before it was divided by, in float64.

    Raises
    ------
    ValueError
        When the shapes do not fit, or a layer is outside of the counts.
    """
    num_layers, num_experts = counts.shape
    kept = len(layers)
    weighted = len(weights) > 0
    if weighted and (weights.shape[0] != kept or weights.shape[1] != num_experts):
        raise ValueError("weights must have shape [layers kept, experts]")
    for layer in layers:
        if layer < 0 or layer >= num_layers:
            raise ValueError("layers must be rows of counts")
    signature = np.zeros(kept * num_experts, dtype=np.float32)
    norm = _norm(counts, layers, weights, square_root)
    if norm == 0.0:
        return signature, norm
    largest = _TABLE if weighted else _largest(counts, layers)
    if largest < _TABLE:  # the same roots and quotients, each taken once
        table = np.empty(largest + 1, dtype=np.float32)
        for count in range(largest + 1):
            table[count] = _value(float64(count), square_root) / norm
        for row in range(kept):
            ours = signature[row * num_experts : (row + 1) * num_experts]
            theirs = counts[layers[row]]
            for expert in range(num_experts):
                ours[expert] = table[theirs[expert]]
        return signature, norm
    for row in range(kept):
        ours, theirs = signature[row * num_experts : (row + 1) * num_experts], counts[layers[row]]
        for expert in range(num_experts):
            value = _value(float64(theirs[expert]), square_root)
            if weighted:
                value *= weights[row, expert]
            ours[expert] = value / norm
    return signature, norm
