"""The cost of a request on each worker, in predicted step time, and the cheapest worker."""

import numpy as np
from numba import boolean, float32, float64, int8, int32, int64, types
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, readonly
from eldr_service.kernels.core.similarity import dot, quantised
from eldr_service.kernels.integer_products import product

_VECTOR = types.Array(float64, 1, "C")
_NEARNESS = _VECTOR(
    *(readonly(float32, 1), readonly(int8, 2), readonly(float64, 1)),
    *(readonly(float32, 1), readonly(int32, 1)),
)
_LEAST = types.Tuple((int64, types.Array(boolean, 1, "C"), _VECTOR, _VECTOR))(
    *(readonly(boolean, 1), readonly(int64, 1), readonly(int64, 1)),
    *([readonly(float64, 1)] * 7),
    *([float64] * 4),
)


@kernel(_NEARNESS)
def nearness(
    mean: NDArray[np.float32],
    codes: NDArray[np.int8],
    scale: NDArray[np.float64],
    signature: NDArray[np.float32],
    slots: NDArray[np.int32],
) -> NDArray[np.float64]:
    """The similarity to each worker's centroid, from its codes alone, rounded to 1e-3; or NaN.

    `mean`, `codes` and `scale` as in `core.quantised`, `signature` and `slots` as for `similarity`.
    """
    if not len(mean) == codes.shape[1] == len(signature):
        raise ValueError("the signature must be as long as a centroid")
    step, steps, _, _ = quantised(signature)
    common = dot(mean, signature)
    by_slot = np.full(len(codes), np.nan)  # workers may share a slot
    result = np.full(len(slots), np.nan)
    for worker in range(len(slots)):
        slot = slots[worker]
        if slot >= len(codes):
            raise ValueError("slots must be below the number of centroids")
        if slot >= 0:
            if np.isnan(by_slot[slot]):
                near = common + scale[slot] * step * product(codes[slot], steps)
                by_slot[slot] = np.rint(near * 1e3) / 1e3
            result[worker] = by_slot[slot]
    return result


@kernel(_LEAST)
def least_marginal_cost(
    eligible: NDArray[np.bool_],
    sequences: NDArray[np.int64],
    rows: NDArray[np.int64],
    booked: NDArray[np.float64],
    weight: NDArray[np.float64],
    active: NDArray[np.float64],
    grown: NDArray[np.float64],
    grown_at_mean: NDArray[np.float64],
    speed: NDArray[np.float64],
    saved: NDArray[np.float64],
    fixed: float,
    expert: float,
    sequence: float,
    tail: float,
) -> tuple[int, NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """Find the worker where a request costs least; `policies.marginal_cost` states the rule.

    Parameters
    ----------
    eligible : ndarray of bool, shape [n]
    sequences : ndarray of int64, shape [n]
        Sequences on each worker.
    rows : ndarray of int64, shape [n]
        Each worker's index in the next two arrays.
    booked, weight : ndarray of float64, shape [rows]
        Sequences of known age, unweighted and weighted by what they have yet to generate, in half
        lives; the worker's others weigh 1.
    active, grown : ndarray of float64, shape [n]
        Distinct experts per layer of a step with the request, and how many of them it adds.
    grown_at_mean : ndarray of float64, shape [n]
        How many it would add if every worker's batch had the mean size.
    speed : ndarray of float64, shape [n]
        Factor on the worker's step time relative to the coefficients.
    saved : ndarray of float64, shape [n] or [0]
        Seconds per generated token that the worker saves the request; empty if none saves any.
    fixed, expert, sequence : float
        Seconds of a step without experts or sequences, per active expert of a layer, per sequence.
    tail : float
        How far a step may be above the mean of the eligible workers', as a share of the mean.

    Returns
    -------
    worker : int
        -1 if none is eligible; on ties the first.
    allowed : ndarray of bool, shape [n]
        Eligible, and the step not too long.
    step : ndarray of float64, shape [n]
        Predicted, with the request.
    cost : ndarray of float64, shape [n]
        What was minimised; NaN if not allowed.
    """
    n = len(eligible)
    for array in (active, grown, grown_at_mean, speed):
        if len(array) != n:
            raise ValueError("there must be one entry per worker")
    if len(sequences) != n or len(rows) != n or len(saved) not in (0, n):
        raise ValueError("there must be one entry per worker")
    for w in range(n):
        if not 0 <= rows[w] < min(len(booked), len(weight)):
            raise ValueError("rows must be below the number of rows")
    step = np.empty(n)
    mean = held = 0.0
    count = 0
    for w in range(n):
        step[w] = speed[w] * (fixed + expert * active[w] + sequence * (sequences[w] + 1))
        if eligible[w]:
            count += 1
            mean += step[w]
            held += sequences[w]
    allowed = np.zeros(n, np.bool_)
    cost = np.full(n, np.nan)
    worker = -1
    least = np.inf
    if count == 0:
        return worker, allowed, step, cost
    # The shortest is not above the mean; rounding must not make it so.
    most = (1.0 + tail) * (mean / count) * (1.0 + 1e-9)
    later = held / count
    for w in range(n):
        if not eligible[w] or step[w] > most:
            continue
        allowed[w] = True
        lives = 0.5 * (weight[rows[w]] + max(sequences[w] - booked[rows[w]], 0.0))
        others = grown[w] * lives + grown_at_mean[w] * later
        cost[w] = step[w] + speed[w] * expert * others
        if len(saved):
            cost[w] -= saved[w]
        if cost[w] < least:
            least = cost[w]
            worker = w
    return worker, allowed, step, cost
