"""A booking's experts in three bits each: the range of its predicted use.

All experts of a range are represented by its mean, so that the total predicted use is preserved.
The packed bytes are: a term and a count per range (8 x uint16, 8 x float32), then the range of
each expert, eight experts in three bytes, the first in the lowest bits.
"""

import numpy as np
from numba import float32, int32, int64, types, uint8, uint16, uint32
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, part, readonly

RANGES = 8
LOGARITHM = 2048.0
_MOST = 1 - 1e-6
_BLOCK = 1_024  # entries that stay in the L1 cache while all edges are tried
# Edges, in means: few experts are used much more than the mean, and they matter most.
_EDGES = np.array([0.15, 0.4, 0.75, 1.25, 2.0, 3.2, 5.5], np.float32)

_TERMS, _HEAD = 2 * RANGES, 6 * RANGES  # bytes of the terms, and of terms and counts

_PACK = types.Array(uint8, 1, "C")(readonly(float32, 1), readonly(float32, 1))
_UNPACK = types.Array(uint32, 1, "C")(readonly(uint8, 1), int64)


@part(fastmath={"reassoc"})
def _sum(values: NDArray[np.float32]) -> float:
    total = np.float32(0.0)
    for i in range(len(values)):
        total += values[i]
    return float(total)


@part(fastmath={"reassoc"})
def _add_above(
    edge: np.float32, probabilities: NDArray[np.float32], counts: NDArray[np.float32]
) -> tuple[np.float32, np.float32, np.float32]:
    """The number of probabilities above an edge, their sum, and that of their counts."""
    number = used = counted = np.float32(0.0)
    for i in range(len(probabilities)):
        above = probabilities[i] > edge
        number += np.float32(1.0) if above else np.float32(0.0)
        used += probabilities[i] if above else np.float32(0.0)
        counted += counts[i] if above else np.float32(0.0)
    return number, used, counted


@kernel(_PACK)
def pack_use(probabilities: NDArray[np.float32], counts: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Sort a request's experts into ranges of predicted use.

    Parameters
    ----------
    probabilities : ndarray of float32, shape [n]
        Probability that a token of the decode uses the expert.
    counts : ndarray of float32, shape [n]
        Of the prefill.

    Returns
    -------
    ndarray of uint8, shape [48 + 3 * ceil(n / 8)]
        Packed. A range's term is -log(1 - p) of its mean p in steps of 1 / 2048, with p clipped to
        0 and 1 - 1e-6; its count is the mean of the counts.
    """
    n = len(probabilities)
    if len(counts) != n:
        raise ValueError("probabilities and counts must be equally long")
    e = _EDGES * np.float32(_sum(probabilities) / max(n, 1))
    ranges = np.zeros((n + 7) // 8 * 8, np.int32)
    for i in range(n):
        p = probabilities[i]
        below = int32(p > e[0]) + int32(p > e[1]) + int32(p > e[2]) + int32(p > e[3])
        ranges[i] = below + int32(p > e[4]) + int32(p > e[5]) + int32(p > e[6])
    above = np.zeros((RANGES + 1, 3))
    for start in range(0, n, _BLOCK):
        p, c = probabilities[start : start + _BLOCK], counts[start : start + _BLOCK]
        for one in range(RANGES):
            edge = e[one - 1] if one else np.float32(-np.inf)
            number, used, counted = _add_above(edge, p, c)
            above[one, 0] += number
            above[one, 1] += used
            above[one, 2] += counted
    packed = np.empty(_HEAD + len(ranges) // 8 * 3, np.uint8)
    terms, shares = packed[:_TERMS].view(np.uint16), packed[_TERMS:_HEAD].view(np.float32)
    for one in range(RANGES):
        number, used, counted = above[one] - above[one + 1]
        mean = min(max(used / max(number, 1.0), 0.0), _MOST)
        terms[one] = uint16(np.rint(-np.log1p(-mean) * LOGARITHM))
        shares[one] = counted / max(number, 1.0)
    codes = packed[_HEAD:]
    for group in range(len(ranges) // 8):
        word = uint32(0)
        for place in range(8):
            word |= uint32(ranges[8 * group + place]) << uint32(3 * place)
        for place in range(3):
            codes[3 * group + place] = uint8(word >> uint32(8 * place))
    return packed


@part()
def unpack_ranges(packed: NDArray[np.uint8], n: int) -> NDArray[np.uint8]:
    """The range of each of n experts, padded to a multiple of eight."""
    ranges, codes = np.empty((n + 7) // 8 * 8, np.uint8), packed[_HEAD:]
    if len(codes) != len(ranges) // 8 * 3:
        raise ValueError("what is packed must be of as many experts")
    for group in range(len(ranges) // 8):
        word = (
            uint32(codes[3 * group])
            | uint32(codes[3 * group + 1]) << uint32(8)
            | uint32(codes[3 * group + 2]) << uint32(16)
        )
        for place in range(8):
            ranges[8 * group + place] = uint8((word >> uint32(3 * place)) & uint32(7))
    return ranges


@part()
def terms_of(packed: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """The term of each range."""
    return packed[:_TERMS].view(np.uint16)


@kernel(_UNPACK)
def unpack_counts(packed: NDArray[np.uint8], n: int) -> NDArray[np.uint32]:
    """The approximate count of each of n experts: the mean of its range."""
    ranges, shares = unpack_ranges(packed, n), packed[_TERMS:_HEAD].view(np.float32)
    counts = np.empty(n, np.uint32)
    for i in range(n):
        counts[i] = uint32(np.rint(shares[ranges[i]]))
    return counts
