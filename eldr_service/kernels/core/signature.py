"""From activation counts to a unit signature, in two passes over the kept rows."""

import numpy as np
from numba import boolean, float32, float64, int64, types, uint16, uint32
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, part, readonly

_TABLE = 4_096  # counts below this are looked up


def _of(counts: types.Type) -> types.Type:
    result = types.Tuple((types.Array(float32, 1, "C"), float64))
    return result(readonly(counts, 2), readonly(int64, 1), readonly(float32, 2), boolean)


# Reordering the sum changes the norm by about 1e-16, and allows vector registers.
@part(fastmath={"reassoc", "contract"})
def _norm(
    counts: NDArray[np.uint16] | NDArray[np.uint32],
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


@kernel([_of(uint16), _of(uint32)], error_model="numpy")
def transform_signature(
    counts: NDArray[np.uint16] | NDArray[np.uint32],
    layers: NDArray[np.int64],
    weights: NDArray[np.float32],
    square_root: bool,
) -> tuple[NDArray[np.float32], float]:
    """Compute the signature of one request; `core.signature` has the formula.

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
        Of unit L2 length; all zeros if the norm is zero.
    norm : float
        The norm that was divided by, in float64.

    Raises
    ------
    ValueError
        The shapes do not match, or a layer is outside the counts.
    """
    num_layers, num_experts = counts.shape
    kept = len(layers)
    weighted = len(weights) > 0
    if weighted and (weights.shape[0] != kept or weights.shape[1] != num_experts):
        raise ValueError("weights must have shape [layers kept, experts]")
    for layer in layers:
        if layer < 0 or layer >= num_layers:
            raise ValueError("layers must be rows of counts")
    norm = _norm(counts, layers, weights, square_root)
    scale = norm if norm > 0.0 else 1.0
    signature = np.empty(kept * num_experts, dtype=np.float32)
    largest = uint32(0)
    for layer in layers:
        theirs = counts[layer]
        for expert in range(num_experts):
            largest = max(largest, uint32(theirs[expert]))
    if largest < _TABLE and not weighted:  # the same roots and quotients, each computed once
        table = np.empty(int64(largest) + 1, dtype=np.float32)
        for count in range(len(table)):
            table[count] = (np.sqrt(float64(count)) if square_root else float64(count)) / scale
        for row in range(kept):
            ours = signature[row * num_experts : (row + 1) * num_experts]
            theirs = counts[layers[row]]
            for expert in range(num_experts):
                ours[expert] = table[theirs[expert]]
        return signature, norm
    for row in range(kept):
        ours = signature[row * num_experts : (row + 1) * num_experts]
        theirs = counts[layers[row]]
        for expert in range(num_experts):
            value = float64(theirs[expert])
            if square_root:
                value = np.sqrt(value)
            if weighted:
                value *= weights[row, expert]
            ours[expert] = value / scale
    return signature, norm
