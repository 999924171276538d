"""Sparse activation counts, decoded from a message's bytes without an object per entry."""

import numpy as np
from numba import int64, types, uint8, uint32
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, part, readonly

NOT_INCREASING, TOO_LARGE = -1, -2
_INDEX, _COUNT = 1 << 3 | 2, 2 << 3 | 2  # tags of packed fields 1 and 2


@part()
def _varint(data: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """The number at `at`, and the position of the next one."""
    value = 0
    shift = 0
    while True:
        byte = int64(data[at])
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


@kernel(types.Tuple((types.Array(uint32, 1, "C"), int64))(readonly(uint8, 1), int64))
def sparse_counts(data: NDArray[np.uint8], size: int) -> tuple[NDArray[np.uint32], int]:
    """Unpack a SparseCounts message with as many indices as counts.

    Parameters
    ----------
    data : ndarray of uint8
        The message as a protobuf library writes it: well-formed, both fields packed and in order,
        unknown fields last.
    size : int
        Entries of the counts.

    Returns
    -------
    counts : ndarray of uint32, shape [size]
    wrong : int
        0, or NOT_INCREASING or TOO_LARGE if the indices are wrong.
    """
    counts = np.zeros(size, dtype=np.uint32)
    last = -1
    if len(data) == 0 or data[0] != _INDEX:
        return counts, 0
    length, at = _varint(data, 1)
    end = at + length
    other = end
    if other >= len(data) or data[other] != _COUNT:
        return counts, 0
    _, other = _varint(data, other + 1)
    while at < end:
        index, at = _varint(data, at)
        count, other = _varint(data, other)
        if index <= last:
            return counts, NOT_INCREASING
        if index >= size:
            return counts, TOO_LARGE
        counts[index] = count
        last = index
    return counts, 0
