"""Similarities of a signature and centroids: exact, or bounded from a quarter of the memory reads.

Their cost is reading the centroids. The quantised copy (`core.quantised`) bounds each similarity
from both sides, and the centroids themselves are read only where the bounds leave a question open.
"""

from math import ldexp

import numpy as np
from numba import float32, float64, int32, types
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, part, readonly
from eldr_service.kernels.integer_products import STEPS, product, quantise

_SIMILARITY = types.Array(float64, 1, "C")(
    readonly(float32, 2), readonly(float32, 1), readonly(int32, 1)
)

_ROUNDING = 1.1e-6  # of similarities, and of the bounds' own arithmetic


# Only the sum may be reordered, so that it can use vector registers: in float64 that changes the
# result by about 1e-16, always by the same amount on the same machine.
@part(fastmath={"reassoc", "contract"})
def dot(centroid: NDArray[np.float32], signature: NDArray[np.float32]) -> float:
    """The dot product, summed in float64."""
    total = 0.0
    for i in range(len(signature)):
        total += float64(centroid[i]) * float64(signature[i])
    return total


@part()
def rounded(centroid: NDArray[np.float32], signature: NDArray[np.float32]) -> float:
    """The similarity of one centroid, rounded to 1e-6 as `numpy.round` does."""
    result: float = np.rint(dot(centroid, signature) * 1e6) / 1e6
    return result


@part()
def unknown(size: int) -> NDArray[np.float64]:
    """An array of NaN; `numpy.full` takes longer to compile."""
    result = np.empty(size)
    for i in range(size):
        result[i] = np.nan
    return result


@kernel(_SIMILARITY)
def similarity(
    centroids: NDArray[np.float32], signature: NDArray[np.float32], slots: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Compare a signature with the centroid of each worker's slot.

    Parameters
    ----------
    centroids : ndarray of float32, shape [K, D]
    signature : ndarray of float32, shape [D]
    slots : ndarray of int32, shape [n]
        Each worker's slot; negative for none.

    Returns
    -------
    ndarray of float64, shape [n]
        Dot products, rounded to 1e-6 as `numpy.round` does; NaN without a slot.

    Raises
    ------
    ValueError
        The signature's length is not D, or a slot is not below K.
    """
    if centroids.shape[1] != len(signature):
        raise ValueError("the signature must be as long as a centroid")
    by_slot = unknown(len(centroids))  # workers may share a slot
    result = unknown(len(slots))
    for worker in range(len(slots)):
        slot = slots[worker]
        if slot < 0:
            continue
        if slot >= len(centroids):
            raise ValueError("slots must be below the number of centroids")
        if np.isnan(by_slot[slot]):
            by_slot[slot] = rounded(centroids[slot], signature)
        result[worker] = by_slot[slot]
    return result


@part()
def quantised(
    signature: NDArray[np.float32],
) -> tuple[float, NDArray[np.int16], float, float]:
    """The step size, the signature in steps, its squared length and that of the rounding errors."""
    # Without the sign, floats sort like their bits; integers are compared many at once.
    bits, most = signature.view(np.int32), int32(0)
    for i in range(len(bits)):
        most = max(most, int32(bits[i] & 0x7FFFFFFF))
    largest = ldexp(float64((most & 0x7FFFFF) | 0x800000), (most >> 23) - 150)  # back to a float
    step = max(largest / STEPS, 1e-30)
    steps = np.empty(len(signature), dtype=np.int16)
    squares, missed = quantise(signature, step, steps)
    return step, steps, squares, missed


@part()
def bounds(
    mean: NDArray[np.float32],
    codes: NDArray[np.int8],
    scale: NDArray[np.float64],
    error: NDArray[np.float64],
    length: NDArray[np.float64],
    signature: NDArray[np.float32],
    wanted: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper bounds of the rounded similarity of each wanted slot."""
    step, steps, squares, missed = quantised(signature)
    norm, lost = np.sqrt(squares), np.sqrt(missed)
    common = dot(mean, signature)
    low, high = unknown(len(codes)), unknown(len(codes))
    for slot in range(len(codes)):
        if wanted[slot]:
            middle = common + scale[slot] * step * product(codes[slot], steps)
            off = error[slot] * norm + length[slot] * lost + _ROUNDING
            low[slot], high[slot] = middle - off, middle + off
    return low, high


@part()
def greatest(
    centroids: NDArray[np.float32],
    signature: NDArray[np.float32],
    wanted: NDArray[np.bool_],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    exact: NDArray[np.float64],
) -> float:
    """The greatest similarity among the wanted slots; stores computed ones in `exact`."""
    at_least = -np.inf
    for slot in range(len(wanted)):
        if wanted[slot]:
            at_least = max(at_least, low[slot])
    best = -np.inf
    for slot in range(len(wanted)):
        if wanted[slot] and high[slot] >= at_least:
            if np.isnan(exact[slot]):
                exact[slot] = rounded(centroids[slot], signature)
            best = max(best, exact[slot])
    return best
