"""The locality band: the least loaded of the workers that are nearly the most similar."""

import numpy as np
from numba import boolean, float32, float64, int8, int32, int64, types
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, readonly
from eldr_service.kernels.core.similarity import bounds, greatest, rounded, unknown

_VECTOR = types.Array(float64, 1, "C")
_CHOOSE = types.Tuple((int64, _VECTOR, types.Array(boolean, 1, "C"), _VECTOR))(
    readonly(float32, 2),
    readonly(float32, 1),
    readonly(int8, 2),
    readonly(float64, 1),
    readonly(float64, 1),
    readonly(float64, 1),
    readonly(float32, 1),
    readonly(int32, 1),
    readonly(boolean, 1),
    readonly(float64, 1),
    float64,
    int64,
)


@kernel(_CHOOSE)
def choose_in_band(
    centroids: NDArray[np.float32],
    mean: NDArray[np.float32],
    codes: NDArray[np.int8],
    scale: NDArray[np.float64],
    error: NDArray[np.float64],
    length: NDArray[np.float64],
    signature: NDArray[np.float32],
    slots: NDArray[np.int32],
    eligible: NDArray[np.bool_],
    load: NDArray[np.float64],
    tau: float,
    min_band: int,
) -> tuple[int, NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Take the least loaded of the workers whose centroid is nearly as similar as the best one.

    The band is every eligible worker with ``similarity >= best - tau``. If `tau` is positive and
    those are fewer than `min_band`, the next best join, so that load counts. Eligible workers
    without a slot are in the band whatever the others' similarity, and do not count towards
    `min_band`. All ties go to the lowest index.

    Parameters
    ----------
    centroids, mean, codes, scale, error, length
        As in `core.quantised`.
    signature, slots
        As for `similarity`.
    eligible : ndarray of bool, shape [n]
    load : ndarray of float64, shape [n]
        Not NaN; in any unit.
    tau : float
        Width of the band, in units of cosine similarity.
    min_band : int
        Fewest workers with a slot in the band, as far as there are any.

    Returns
    -------
    worker : int
        -1 if none is eligible.
    similarity : ndarray of float64, shape [n]
        As from `similarity`; NaN if the decision did not need it. Always set for `worker`.
    in_band : ndarray of bool, shape [n]
    about : ndarray of float64, shape [n]
        The similarity by quantised centroids, for each eligible worker with a slot.

    Raises
    ------
    ValueError
        `eligible` or `load` does not have one entry per worker, the signature's length is not D, or
        a slot is not below K.
    """
    n = len(slots)
    if len(eligible) != n or len(load) != n:
        raise ValueError("slots, eligible and load must have one entry per worker")
    if not centroids.shape[1] == len(mean) == codes.shape[1] == len(signature):
        raise ValueError("the signature must be as long as a centroid")
    slots_in_all = len(centroids)
    if not slots_in_all == len(codes) == len(scale) == len(error) == len(length):
        raise ValueError("every centroid must be quantised")
    wanted = np.empty(slots_in_all, dtype=np.bool_)
    for slot in range(slots_in_all):
        wanted[slot] = False
    for i in range(n):
        if slots[i] >= slots_in_all:
            raise ValueError("slots must be below the number of centroids")
        if eligible[i] and slots[i] >= 0:
            wanted[slots[i]] = True
    low, high = bounds(mean, codes, scale, error, length, signature, wanted)
    exact = unknown(slots_in_all)

    # Which one is best matters only if it moves the edge past another.
    best_low = best_high = -np.inf
    for slot in range(slots_in_all):
        if wanted[slot]:
            best_low, best_high = max(best_low, low[slot]), max(best_high, high[slot])
    for slot in range(slots_in_all):
        if wanted[slot] and low[slot] < best_high - tau and high[slot] >= best_low - tau:
            best_low = best_high = greatest(centroids, signature, wanted, low, high, exact)
            break
    in_band = np.empty(n, dtype=np.bool_)
    near = 0
    for i in range(n):
        in_band[i] = False
        if not eligible[i]:
            continue
        slot = slots[i]
        if slot < 0:
            in_band[i] = True
            continue
        in_band[i] = low[slot] >= best_high - tau
        if not in_band[i] and high[slot] >= best_low - tau:
            if np.isnan(exact[slot]):
                exact[slot] = rounded(centroids[slot], signature)
            in_band[i] = exact[slot] >= best_low - tau
        near += in_band[i]
    while tau > 0.0 and near < min_band:
        for slot in range(slots_in_all):
            wanted[slot] = False
        left = 0
        for i in range(n):
            if eligible[i] and not in_band[i]:
                wanted[slots[i]] = True
                left += 1
        if left == 0:
            break
        following = greatest(centroids, signature, wanted, low, high, exact)
        for i in range(n):
            if eligible[i] and not in_band[i] and exact[slots[i]] == following:
                in_band[i] = True
                near += 1
                break
    worker = -1
    for i in range(n):
        if in_band[i] and (worker < 0 or load[i] < load[worker]):
            worker = i
    if worker >= 0 and slots[worker] >= 0 and np.isnan(exact[slots[worker]]):
        exact[slots[worker]] = rounded(centroids[slots[worker]], signature)
    similar, about = unknown(n), unknown(n)
    for i in range(n):
        slot = slots[i]
        if slot >= 0:
            similar[i] = exact[slot]
            about[i] = (low[slot] + high[slot]) / 2
    return worker, similar, in_band, about
