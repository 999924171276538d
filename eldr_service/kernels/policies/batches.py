"""Which experts a worker's batch will use: probabilities of being unused, kept as integers.

A request uses expert e of a layer for a token with probability p[e]. Requests are assumed to be
independent given these, so a batch leaves e unused with probability prod(1 - p[e]). Its logarithm
is a sum with one term per request. As integers, in steps of 1 / 2048 of a natural logarithm, such
sums are exact: removing a request restores what was there before it. For decisions to read, each
probability is also kept as a byte, in 127ths: for the batch as it is, and for a similar one of
another size, whose sums are scaled by the ratio of the sizes.
"""

import numpy as np
from numba import float32, float64, int8, int16, int32, int64, types, uint8, void
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, readonly
from eldr_service.kernels.integer_products import STEPS, product
from eldr_service.kernels.policies.packed_use import LOGARITHM, terms_of, unpack_ranges

# Beyond: 1e-7, practically 0.
UNUSED = np.exp(-np.arange(16 * int(LOGARITHM)) / LOGARITHM).astype(np.float32)
LAST = len(UNUSED) - 1
WHOLE = 127
_CODE = np.rint(UNUSED * WHOLE).astype(np.int8)

_ADD = float64(
    readonly(uint8, 1),
    int64,
    float64,
    types.Array(int32, 1, "C"),
    types.Array(int8, 1, "C"),
    types.Array(int8, 1, "C"),
)
_SUMS = types.Array(int32, 1, "C")
_ADD_TERMS = void(readonly(uint8, 1), int64, _SUMS, _SUMS)
_ACTIVE = types.Array(float64, 1, "C")(readonly(int32, 2), readonly(int64, 1))
_GROWTH = types.Array(float64, 1, "C")(readonly(int8, 2), readonly(int64, 1), readonly(float32, 1))


@kernel(_ADD, fastmath={"reassoc"})
def add_use(
    packed: NDArray[np.uint8],
    times: int,
    resized: float,
    sums: NDArray[np.int32],
    unused: NDArray[np.int8],
    unused_resized: NDArray[np.int8],
) -> float:
    """Add requests to a worker's batch, or remove them if `times` is negative. In place.

    Parameters
    ----------
    packed : ndarray of uint8
        One request's use of the experts of all layers, from `pack_use`.
    times : int
        Number of such requests.
    resized : float
        Size of the other batch relative to this one; finite, not negative.
    sums : ndarray of int32, shape [n]
        Sums of the terms of all requests in the batch.
    unused : ndarray of int8, shape [n]
        Becomes the probability that a step leaves the expert unused, in 127ths.
    unused_resized : ndarray of int8, shape [n]
        The same for a similar batch of the other size.

    Returns
    -------
    float
        Distinct experts that a step is expected to use, over all layers.
    """
    n = len(sums)
    if not len(unused) == len(unused_resized) == n:
        raise ValueError("sums and what is unused must be equally long")
    ranges = unpack_ranges(packed, n)
    added = np.int32(times) * terms_of(packed).astype(np.int32)
    total = np.float32(0.0)
    factor, last = np.float32(resized), np.float32(LAST)
    for i in range(n):
        sums[i] += added[ranges[i]]
        place = min(max(sums[i], 0), LAST)
        unused[i] = _CODE[place]
        total += UNUSED[place]
        unused_resized[i] = _CODE[int32(min(place * factor, last))]
    return float(n - total)


@kernel(_ADD_TERMS)
def add_terms(
    packed: NDArray[np.uint8], times: int, sums: NDArray[np.int32], others: NDArray[np.int32]
) -> None:
    """Add requests to the sums of two batches, or remove them if `times` is negative.

    Parameters
    ----------
    packed : ndarray of uint8
        One request's use of the experts of all layers, from `pack_use`.
    times : int
        Number of such requests.
    sums, others : ndarray of int32, shape [n]
        Sums of the terms of all requests in each batch. In place.
    """
    if len(others) != len(sums):
        raise ValueError("both sums must be equally long")
    ranges = unpack_ranges(packed, len(sums))
    added = np.int32(times) * terms_of(packed).astype(np.int32)
    for i in range(len(sums)):
        term = added[ranges[i]]
        sums[i] += term
        others[i] += term


@kernel(_ACTIVE, fastmath={"reassoc"})
def expected_active(sums: NDArray[np.int32], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Distinct experts that a step of each batch is expected to use, over all layers.

    Parameters
    ----------
    sums : ndarray of int32, shape [m, n]
        Sums of the terms of all requests in each batch.
    rows : ndarray of int64, shape [batches]
        Each batch's row of `sums`.

    Returns
    -------
    ndarray of float64, shape [batches]

    Raises
    ------
    ValueError
        A row does not exist.
    """
    active = np.empty(len(rows))
    for batch in range(len(rows)):
        if not 0 <= rows[batch] < len(sums):
            raise ValueError("rows must be below the number of rows")
        own = sums[rows[batch]]
        total = np.float32(0.0)
        for i in range(len(own)):
            total += UNUSED[min(max(own[i], 0), LAST)]
        active[batch] = len(own) - total
    return active


@kernel(_GROWTH)
def growth(
    unused: NDArray[np.int8], rows: NDArray[np.int64], probabilities: NDArray[np.float32]
) -> NDArray[np.float64]:
    """How many more distinct experts one more request would add to each worker's step.

    Parameters
    ----------
    unused : ndarray of int8, shape [m, n]
        In 127ths.
    rows : ndarray of int64, shape [workers]
        Each worker's row of `unused`.
    probabilities : ndarray of float32, shape [n]
        The new request's; 0 to 1.

    Returns
    -------
    ndarray of float64, shape [workers]
        Over all layers.

    Raises
    ------
    ValueError
        The lengths do not match, or a row does not exist.
    """
    if unused.shape[1] != len(probabilities):
        raise ValueError("probabilities must be as long as a row")
    steps = np.empty(len(probabilities), np.int16)
    for i in range(len(steps)):
        steps[i] = int16(probabilities[i] * np.float32(STEPS) + np.float32(0.5))
    result = np.empty(len(rows))
    for worker in range(len(rows)):
        if not 0 <= rows[worker] < len(unused):
            raise ValueError("rows must be below the number of rows")
        result[worker] = product(unused[rows[worker]], steps) / (WHOLE * STEPS)
    return result
