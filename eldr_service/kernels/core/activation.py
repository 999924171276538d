"""Checks that counts are complete: every row sums to what its tokens picked."""

import numpy as np
from numba import int64, uint16, uint32
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, readonly


@kernel([int64(readonly(uint16, 2), int64), int64(readonly(uint32, 2), int64)])
def wrong_row(counts: NDArray[np.uint16] | NDArray[np.uint32], wanted: int) -> int:
    """The first row of counts [m, E] that does not sum to `wanted`; -1 if all do."""
    for row in range(len(counts)):
        total = int64(0)
        for count in counts[row]:
            total += int64(count)
        if total != wanted:
            return row
    return -1
