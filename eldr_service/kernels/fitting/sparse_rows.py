"""Checks sparse rows, which the other kernels rely on without checking."""

import numpy as np
from numba import int32, int64
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, readonly


@kernel(int64(readonly(int32, 1), readonly(int64, 1), int64), nogil=True)
def first_malformed_row(columns: NDArray[np.int32], starts: NDArray[np.int64], size: int) -> int:
    """Find the first row whose columns are not ascending, unique, and from 0 to ``size - 1``.

    Row i has the columns ``starts[i]`` to ``starts[i + 1] - 1``. Returns -1 if all rows are valid.
    """
    at = 0
    for i in range(len(starts) - 1):
        if starts[i] != at or starts[i + 1] < at or starts[i + 1] > len(columns):
            return i
        at = starts[i + 1]
        last = -1
        for p in range(starts[i], at):
            if columns[p] <= last:
                return i
            last = columns[p]
        if last >= size:
            return i
    return -1
