"""The locality band: how similar each worker's centroid is, and the least loaded of the near."""

import numpy as np
from numba import boolean, float32, float64, int32, int64, njit, types
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, readonly

_SIMILARITIES = types.Array(float64, 1, "C")
_SIMILARITY = _SIMILARITIES(readonly(float32, 2), readonly(float32, 1), readonly(int32, 1))
_CHOOSE = types.Tuple((int64, _SIMILARITIES, types.Array(boolean, 1, "C")))(
    readonly(float32, 2),
    readonly(float32, 1),
    readonly(int32, 1),
    readonly(boolean, 1),
    readonly(float64, 1),
    float64,
)


# Only the sum may be reordered, which is what lets it use vector registers: in float64 that moves
# the result by about 1e-16, always by the same amount on the same machine.
@njit(fastmath={"reassoc", "contract"})
def _dot(centroid: NDArray[np.float32], signature: NDArray[np.float32]) -> float:
    total = 0.0
    for i in range(len(signature)):
        total += float64(centroid[i]) * float64(signature[i])
    return total


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
        When the signature's length is not D, or a slot is not below K.
    """
    if centroids.shape[1] != len(signature):
        raise ValueError("the signature must be as long as a centroid")
    by_slot = np.full(len(centroids), np.nan)  # workers may share a slot
    result = np.full(len(slots), np.nan)
    for worker in range(len(slots)):
        slot = slots[worker]
        if slot < 0:
            continue
        if slot >= len(centroids):
            raise ValueError("slots must be below the number of centroids")
        if np.isnan(by_slot[slot]):
            by_slot[slot] = np.rint(_dot(centroids[slot], signature) * 1e6) / 1e6
        result[worker] = by_slot[slot]
    return result


@kernel(_CHOOSE)
def choose_in_band(
    centroids: NDArray[np.float32],
    signature: NDArray[np.float32],
    slots: NDArray[np.int32],
    eligible: NDArray[np.bool_],
    load: NDArray[np.float64],
    tau: float,
) -> tuple[int, NDArray[np.float64], NDArray[np.bool_]]:
    """Take the least loaded of the workers whose centroid is nearly as similar as the best one's.

    The band is every eligible worker with ``similarity >= best - tau``. When `tau` is positive and
    that is one worker alone, the second best joins, so that load has a say. Eligible workers
    without a slot are in the band whatever the others' similarity. All ties go to the lowest index.

    Parameters
    ----------
    centroids, signature, slots
        As for `similarity`.
    eligible : ndarray of bool, shape [n]
    load : ndarray of float64, shape [n]
        Not NaN; in any unit.
    tau : float
        Width of the band, in units of cosine similarity.

    Returns
    -------
    worker : int
        -1 when none is eligible.
    similarity : ndarray of float64, shape [n]
        Of all workers, eligible or not.
    in_band : ndarray of bool, shape [n]

    Raises
    ------
    ValueError
        When `eligible` or `load` has not one entry a worker, and as `similarity` does.
    """
    n = len(slots)
    if len(eligible) != n or len(load) != n:
        raise ValueError("slots, eligible and load must have one entry a worker")
    similar = similarity(centroids, signature, slots)
    best = -np.inf
    for i in range(n):
        if eligible[i] and slots[i] >= 0 and similar[i] > best:
            best = similar[i]
    in_band = np.zeros(n, dtype=np.bool_)
    near = 0
    second = -1
    for i in range(n):
        if not eligible[i]:
            continue
        if slots[i] < 0:
            in_band[i] = True
        elif similar[i] >= best - tau:
            in_band[i] = True
            near += 1
        elif second < 0 or similar[i] > similar[second]:
            second = i
    if tau > 0.0 and near == 1 and second >= 0:
        in_band[second] = True
    worker = -1
    for i in range(n):
        if in_band[i] and (worker < 0 or load[i] < load[worker]):
            worker = i
    return worker, similar, in_band
