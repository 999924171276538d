"""Which experts a request's decode will use, from its prefill and what finished requests did.

Tables are [L, E]: a probability for each expert of each layer that a token uses it, or counts.
"""

import numpy as np
from numba import float32, float64, int64, njit, types, void
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, readonly

NEIGHBOURS = 8
# Weight exp(SHARPNESS (cosine - 1)) of a finished request; DOUBT is the weight of none of them.
SHARPNESS = 10.0
DOUBT = 0.01

_ROW = types.Array(float32, 1, "C")
_TABLE = types.Array(float32, 2, "C")
_DEPARTURE = _TABLE(readonly(float32, 2), float64, readonly(float32, 2), float64)
_SKETCH = _ROW(readonly(float32, 2), readonly(int64, 1), readonly(float32, 1), int64)
_PREDICT = _ROW(
    readonly(float32, 2),
    readonly(float32, 2),
    readonly(float32, 2),
    float64,
    readonly(float32, 1),
    readonly(float32, 1),
    readonly(float32, 2),
    readonly(float32, 2),
    int64,
)
_FOLLOW = void(_TABLE, readonly(float32, 2), float64, float64)
_LEARN = void(
    readonly(float32, 2),
    readonly(float32, 2),
    float64,
    readonly(float32, 2),
    _TABLE,
    float64,
    float64,
    types.Array(float64, 2, "C"),
)
_FAST = {"reassoc", "contract"}


@njit(fastmath=_FAST)
def _sum(row: NDArray[np.float32]) -> float:
    total = np.float32(0.0)
    for i in range(len(row)):
        total += row[i]
    return float(total)


@njit(fastmath=_FAST)
def _dot(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    total = np.float32(0.0)
    for i in range(len(one)):
        total += one[i] * other[i]
    return float(total)


@kernel(_DEPARTURE, fastmath=_FAST)
def departure(
    counts: NDArray[np.float32], top_k: float, mean: NDArray[np.float32], tokens_of_mean: float
) -> NDArray[np.float32]:
    """How a request departs from the mean, ``(counts + m mean) / (tokens + m) - mean``.

    Parameters
    ----------
    counts : ndarray of float32, shape [L, E]
        A layer of zeros, of which nothing is known, departs by nothing.
    top_k : float
        Experts of a token: a layer's counts sum to tokens x top_k.
    mean : ndarray of float32, shape [L, E]
    tokens_of_mean : float
        m: the mean counts as so many tokens.

    Returns
    -------
    ndarray of float32, shape [L, E]
    """
    if mean.shape != counts.shape:
        raise ValueError("mean must have the shape of counts")
    departs = np.empty(counts.shape, np.float32)
    for layer in range(len(counts)):
        tokens = _sum(counts[layer]) / top_k
        each = np.float32(1.0 / (tokens + tokens_of_mean))
        less = np.float32(tokens) * each
        for expert in range(counts.shape[1]):
            departs[layer, expert] = counts[layer, expert] * each - mean[layer, expert] * less
    return departs


@kernel(_SKETCH)
def sketch(
    departs: NDArray[np.float32],
    buckets: NDArray[np.int64],
    signs: NDArray[np.float32],
    size: int,
) -> NDArray[np.float32]:
    """A short vector whose dot products are nearly the cosines of departures: a count sketch.

    Parameters
    ----------
    departs : ndarray of float32, shape [L, E]
    buckets : ndarray of int64, shape [L * E]
        Drawn once, each from 0 to below size.
    signs : ndarray of float32, shape [L * E]
        Drawn once, each 1 or -1.
    size : int

    Returns
    -------
    ndarray of float32, shape [size]
        Of unit length, or all zeros.
    """
    flat = departs.reshape(departs.size)
    if len(buckets) != len(flat) or len(signs) != len(flat):
        raise ValueError("buckets and signs must have one entry an expert of a layer")
    short = np.zeros(size, np.float32)
    for i in range(len(flat)):
        short[buckets[i]] += signs[i] * flat[i]
    length = np.sqrt(_dot(short, short))
    if length > 0.0:
        short *= np.float32(1.0 / length)
    return short


@kernel(_PREDICT, fastmath=_FAST)
def predict_use(
    departs: NDArray[np.float32],
    mean: NDArray[np.float32],
    drift: NDArray[np.float32],
    known: float,
    reliability: NDArray[np.float32],
    own: NDArray[np.float32],
    sketches: NDArray[np.float32],
    residuals: NDArray[np.float32],
    finished: int,
) -> NDArray[np.float32]:
    """Predict with what probability a decode's token uses each expert.

    ``mean + known drift + reliability departs + sum_j w_j residuals[j]`` over the `NEIGHBOURS` most
    similar finished requests, ``w_j = exp(SHARPNESS (cosine_j - 1)) / (DOUBT + their sum)``.

    Parameters
    ----------
    departs : ndarray of float32, shape [L, E]
        See `departure`.
    mean : ndarray of float32, shape [L, E]
        Of prefills.
    drift : ndarray of float32, shape [L, E]
        Mean of decodes less that of prefills.
    known : float
        How much of it to believe, 0 to 1.
    reliability : ndarray of float32, shape [L]
        How much of a prefill's departure lasts in the decode.
    own : ndarray of float32, shape [S]
        The request's sketch.
    sketches : ndarray of float32, shape [M, S]
        Of finished requests.
    residuals : ndarray of float32, shape [M, L * E]
        Their decodes less what the first three terms say.
    finished : int
        How many rows of the two are filled.

    Returns
    -------
    ndarray of float32, shape [L * E]
        From 0 to 1.
    """
    layers, experts = departs.shape
    if finished > min(len(sketches), len(residuals)) or residuals.shape[1] != layers * experts:
        raise ValueError("sketches and residuals must have the rows that are filled")
    probabilities = np.empty((layers, experts), np.float32)
    believed = np.float32(known)
    for layer in range(layers):
        lasting = reliability[layer]
        for e in range(experts):
            probabilities[layer, e] = (
                mean[layer, e] + believed * drift[layer, e] + lasting * departs[layer, e]
            )
    flat = probabilities.reshape(layers * experts)
    cosines = np.empty(finished, np.float64)
    for j in range(finished):
        cosines[j] = _dot(own, sketches[j])
    nearest = np.empty(min(NEIGHBOURS, finished), np.int64)
    weights = np.empty(len(nearest), np.float64)
    for k in range(len(nearest)):  # of equals, the first
        nearest[k] = np.argmax(cosines)
        weights[k] = np.exp(SHARPNESS * (cosines[nearest[k]] - 1.0))
        cosines[nearest[k]] = -2.0
    weights /= DOUBT + weights.sum()
    for k in range(len(nearest)):
        weight = np.float32(weights[k])
        residual = residuals[nearest[k]]
        for i in range(len(flat)):
            flat[i] += weight * residual[i]
    for i in range(len(flat)):
        flat[i] = min(max(flat[i], np.float32(0.0)), np.float32(1.0))
    return flat


@kernel(_FOLLOW, fastmath=_FAST)
def follow_counts(
    mean: NDArray[np.float32], counts: NDArray[np.float32], top_k: float, rate: float
) -> None:
    """Move a mean towards one request's frequencies, in place; layers of zeros say nothing.

    Parameters
    ----------
    mean, counts : ndarray of float32, shape [L, E]
    top_k : float
    rate : float
        Share of the way, 0 to 1.
    """
    if mean.shape != counts.shape:
        raise ValueError("mean must have the shape of counts")
    for layer in range(len(counts)):
        picks = _sum(counts[layer])
        if picks > 0.0:
            each = np.float32(rate * top_k / picks)
            kept = np.float32(1.0 - rate)
            for expert in range(counts.shape[1]):
                mean[layer, expert] = mean[layer, expert] * kept + counts[layer, expert] * each


@kernel(_LEARN, fastmath=_FAST)
def learn_decode(
    departs: NDArray[np.float32],
    counts: NDArray[np.float32],
    top_k: float,
    mean: NDArray[np.float32],
    drift: NDArray[np.float32],
    rate: float,
    keep: float,
    sums: NDArray[np.float64],
) -> None:
    """Learn from one decode, in place; layers of zeros say nothing.

    Parameters
    ----------
    departs : ndarray of float32, shape [L, E]
        Of its prefill.
    counts : ndarray of float32, shape [L, E]
        Of the decode.
    top_k : float
    mean : ndarray of float32, shape [L, E]
        Of prefills.
    drift : ndarray of float32, shape [L, E]
        Moved `rate` of the way towards this decode's difference from `mean`.
    keep : float
        By how much the sums are multiplied first, to forget.
    sums : ndarray of float64, shape [2, L]
        Of squared departures, and of their products with what decodes differ by beside the drift.
    """
    layers, experts = departs.shape
    if counts.shape != departs.shape or sums.shape[1] != layers:
        raise ValueError("counts and sums must have the layers of departs")
    moved = np.float32(rate)
    for layer in range(layers):
        picks = _sum(counts[layer])
        if picks <= 0.0:
            continue
        each = np.float32(top_k / picks)
        squares = products = np.float32(0.0)
        for e in range(experts):
            off = counts[layer, e] * each - mean[layer, e]
            drift[layer, e] += moved * (off - drift[layer, e])
            squares += departs[layer, e] * departs[layer, e]
            products += departs[layer, e] * (off - drift[layer, e])
        sums[0, layer] = keep * sums[0, layer] + squares
        sums[1, layer] = keep * sums[1, layer] + products
