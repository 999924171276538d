"""Remembered signatures: counts of a fixed number of tokens, moved towards a request's."""

import numpy as np
from numba import float64, int64, types, uint16, uint32
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, readonly

_OUT = types.Array(uint16, 2, "C")
_HELD = readonly(uint16, 2)


@kernel(
    [
        _OUT(_HELD, readonly(uint16, 2), float64, int64),
        _OUT(_HELD, readonly(uint32, 2), float64, int64),
    ]
)
def moved_towards(
    held: NDArray[np.uint16],
    counts: NDArray[np.uint16] | NDArray[np.uint32],
    rate: float,
    total: int,
) -> NDArray[np.uint16]:
    """Mix remembered counts with a request's, as frequencies; rows keep their sum exactly.

    Parameters
    ----------
    held : ndarray of uint16, shape [L, E]
        Each row sums to `total`.
    counts : ndarray of uint16 or uint32, shape [L, E]
        No row is zero.
    rate : float
        Weight of the request in the result, 0 to 1.
    total : int
        At most 65,535 x E.

    Returns
    -------
    ndarray of uint16, shape [L, E]
        The sum over a row's first experts is off by at most a half.
    """
    if held.shape != counts.shape:
        raise ValueError("held must have the shape of counts")
    mixed = np.empty_like(held)
    for layer in range(len(counts)):
        picks = 0
        for count in counts[layer]:
            picks += int64(count)
        if picks == 0:
            raise ValueError("a layer of counts is zero")
        each, kept = rate * total / picks, 1.0 - rate
        exact, before = 0.0, int64(0)  # sums so far, exact and rounded
        for expert in range(counts.shape[1]):
            exact += kept * held[layer, expert] + each * counts[layer, expert]
            whole = int64(exact + 0.5)
            mixed[layer, expert] = uint16(min(whole - before, 65_535))
            before = whole
    return mixed
