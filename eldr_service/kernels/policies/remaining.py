"""How much of what each worker holds is still to be generated."""

import numpy as np
from numba import float64, int64, types
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, readonly

_SUMS = types.Array(float64, 1, "C")
_REMAINING = types.UniTuple(_SUMS, 2)(
    readonly(int64, 1),
    readonly(float64, 1),
    readonly(float64, 1),
    readonly(float64, 1),
    int64,
    float64,
    float64,
    int64,
)


@kernel(_REMAINING)
def remaining_by_row(
    rows: NDArray[np.int64],
    sequences: NDArray[np.float64],
    lives: NDArray[np.float64],
    began: NDArray[np.float64],
    living: int,
    now: float,
    least: float,
    num_rows: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum each row's sequences, unweighted and weighted by ``max(2 (1 - age / life), least)``.

    Parameters
    ----------
    rows : ndarray of int64, shape [room]
        The row of each request; only the first `living` are used.
    sequences : ndarray of float64, shape [room]
        Sequences of each request.
    lives, began : ndarray of float64, shape [room]
        Each request's expected life and start, in the same unit.
    living : int
    now : float
    least : float
    num_rows : int
        Above all of `rows`.

    Returns
    -------
    booked, weight : ndarray of float64, shape [num_rows]
        Equal if ages are uniform.
    """
    booked, weight = np.zeros(num_rows), np.zeros(num_rows)
    for i in range(living):
        left = 2.0 * (1.0 - (now - began[i]) / lives[i])
        booked[rows[i]] += sequences[i]
        weight[rows[i]] += sequences[i] * max(left, least)
    return booked, weight
