"""Which running request should move to another worker: what each move would save."""

import numpy as np
from numba import boolean, float64, int8, int16, int32, int64, types, uint8
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, readonly
from eldr_service.kernels.integer_products import STEPS, product
from eldr_service.kernels.policies.batches import LAST, UNUSED, WHOLE
from eldr_service.kernels.policies.packed_use import LOGARITHM, terms_of, unpack_ranges

STAYING = 0.5
"""Share of a saving beside the present sequences: others replace them while the request lives."""
_VECTOR = readonly(float64, 1)
_BEST = types.Tuple((int64, int64, float64))(
    *(readonly(uint8, 2), readonly(int64, 1), _VECTOR),
    *(readonly(boolean, 1), readonly(int64, 1), readonly(int64, 1)),
    *(readonly(int32, 2), readonly(int8, 2), readonly(int8, 2), readonly(int64, 1)),
    *(_VECTOR, _VECTOR, float64, float64, float64, float64, int64),
)


@kernel(_BEST)
def best_move(
    packed: NDArray[np.uint8],
    at: NDArray[np.int64],
    left: NDArray[np.float64],
    eligible: NDArray[np.bool_],
    sequences: NDArray[np.int64],
    rows: NDArray[np.int64],
    sums: NDArray[np.int32],
    unused: NDArray[np.int8],
    unused_at_mean: NDArray[np.int8],
    requests: NDArray[np.int64],
    active: NDArray[np.float64],
    speed: NDArray[np.float64],
    fixed: float,
    expert: float,
    sequence: float,
    tail: float,
    layers: int,
) -> tuple[int, int, float]:
    """Find the move that saves most; `policies.moves` states the rule.

    Parameters
    ----------
    packed : ndarray of uint8, shape [m, bytes]
        Use of each candidate, from `pack_use`; each is one sequence.
    at : ndarray of int64, shape [m]
        Its worker, below n.
    left : ndarray of float64, shape [m]
        Tokens that it has yet to generate.
    eligible : ndarray of bool, shape [n]
        Workers that a request may move to.
    sequences : ndarray of int64, shape [n]
        Sequences on each worker.
    rows : ndarray of int64, shape [n]
        Each worker's row in the next four arrays.
    sums, unused, unused_at_mean : ndarray of int32, int8 and int8, shape [rows, experts]
        Of batches, as written by `add_use`.
    requests : ndarray of int64, shape [rows]
        Requests in each batch.
    active, speed, fixed, expert, sequence, tail
        As for `least_marginal_cost`, without a new request.
    layers : int

    Returns
    -------
    candidate, worker : int
        -1 if no move saves anything.
    saved : float
        Seconds over all sequences.
    """
    m, n = len(packed), len(rows)
    if not (len(at) == len(left) == m and len(requests) == len(sums)):
        raise ValueError("there must be one entry per candidate, and one per row")
    if not (len(eligible) == len(sequences) == len(active) == len(speed) == n):
        raise ValueError("there must be one entry per worker")
    if not sums.shape == unused.shape == unused_at_mean.shape:
        raise ValueError("sums and what is unused must have the same shape")
    step = np.empty(n)
    mean = held = 0.0
    count = 0
    for w in range(n):
        if not 0 <= rows[w] < len(sums):
            raise ValueError("rows must be below the number of rows")
        step[w] = speed[w] * (fixed + expert * active[w] + sequence * sequences[w])
        if eligible[w]:
            count += 1
            mean += step[w]
            held += sequences[w]
    best, to, most = -1, -1, 0.0
    if count == 0:
        return best, to, most
    longest = (1.0 + tail) * mean / count
    later = held / count
    size = sums.shape[1]
    used = np.empty(size, np.int16)
    of_range = np.empty(8, np.float32)
    for i in range(m):
        a = at[i]
        if not 0 <= a < n:
            raise ValueError("a candidate's worker must be one of them")
        terms, ranges = terms_of(packed[i]).astype(np.int32), unpack_ranges(packed[i], size)
        for r in range(len(of_range)):
            of_range[r] = np.float32(1.0 - np.exp(-terms[r] / LOGARITHM))
        others = requests[rows[a]] - 1
        resized = np.float32(later / others if others > 0 else 0.0)
        added = added_at_mean = np.float32(0.0)
        beside = sums[rows[a]]
        for e in range(size):
            p = of_range[ranges[e]]
            used[e] = int16(p * np.float32(STEPS) + np.float32(0.5))
            place = min(max(beside[e] - terms[ranges[e]], 0), LAST)
            added += p * UNUSED[place]
            added_at_mean += p * UNUSED[int32(min(place * resized, np.float32(LAST)))]
        without = speed[a] * (
            fixed + expert * (active[a] - added / layers) + sequence * (sequences[a] - 1)
        )
        saved_here = STAYING * (step[a] * sequences[a] - without * (sequences[a] - 1))
        saved_here += later * speed[a] * expert * added_at_mean / layers
        for w in range(n):
            if w == a or not eligible[w]:
                continue
            grown = product(unused[rows[w]], used) / (WHOLE * STEPS * layers)
            joined = speed[w] * (
                fixed + expert * (active[w] + grown) + sequence * (sequences[w] + 1)
            )
            if joined > longest:
                continue
            grown_at_mean = product(unused_at_mean[rows[w]], used) / (WHOLE * STEPS * layers)
            cost = STAYING * (joined * (sequences[w] + 1) - step[w] * sequences[w])
            cost += later * speed[w] * expert * grown_at_mean
            saved = left[i] * (saved_here - cost)
            if saved > most:
                best, to, most = i, w, saved
    return best, to, most
