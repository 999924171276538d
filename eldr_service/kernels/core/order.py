"""The first few workers in an order, without sorting all of them."""

import numpy as np
from numba import boolean, float64, int64, types
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, readonly


@kernel(
    types.Array(int64, 1, "C")(
        readonly(boolean, 1), readonly(boolean, 1), readonly(float64, 1), int64, int64
    )
)
def best_first(
    eligible: NDArray[np.bool_],
    preferred: NDArray[np.bool_],
    load: NDArray[np.float64],
    chosen: int,
    most: int,
) -> NDArray[np.int64]:
    """The eligible workers except the chosen one, preferred ones first, each group by load.

    Parameters
    ----------
    eligible, preferred : ndarray of bool, shape [n]
    load : ndarray of float64, shape [n]
    chosen : int
    most : int
        Most workers to return.

    Returns
    -------
    ndarray of int64
        Indices; on ties the lowest first.
    """
    n = len(eligible)
    if len(preferred) != n or len(load) != n:
        raise ValueError("eligible, preferred and load must have one entry per worker")
    left = eligible.copy()
    if 0 <= chosen < n:
        left[chosen] = False
    order = np.empty(min(max(most, 0), n), dtype=np.int64)
    for place in range(len(order)):
        first = -1
        for i in range(n):
            if left[i] and (
                first < 0
                or (preferred[i] and not preferred[first])
                or (preferred[i] == preferred[first] and load[i] < load[first])
            ):
                first = i
        if first < 0:
            return order[:place].copy()
        left[first] = False
        order[place] = first
    return order
