"""Which experts a request's decode will use, from its prefill and from finished requests.

Tables are [L, E]: the probability that a token uses each expert of each layer, or counts.
"""

import numpy as np
from numba import float32, float64, int8, int64, types, void
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, part, readonly

NEIGHBOURS = 8
# Weight exp(SHARPNESS (cosine - 1)) of a finished request; DOUBT is the weight of no request.
SHARPNESS = 10.0
DOUBT = 0.01
_LARGEST = 127

_ROW = types.Array(float32, 1, "C")
_TABLE = types.Array(float32, 2, "C")
_COUNTS = (readonly(float32, 2), float64, float64)  # with top_k and tokens_of_mean
_HASH = (readonly(int64, 1), readonly(float32, 1))
_PREDICT = _ROW(
    *_COUNTS,
    *(readonly(float32, 2), readonly(float32, 2), float64, readonly(float32, 1)),
    *_HASH,
    *(readonly(float32, 2), readonly(int8, 2), readonly(float64, 1), int64),
)
_FOLLOW = void(_TABLE, readonly(float32, 2), float64, float64)
_LEARN = float64(
    *_COUNTS,
    readonly(float32, 2),
    *(readonly(float32, 2), _TABLE, float64, float64, float64),
    *(types.Array(float64, 2, "C"), _ROW),
    *_HASH,
    *(_ROW, types.Array(int8, 1, "C")),
)
_FAST = {"reassoc", "contract"}


@part(fastmath=_FAST)
def _sum(row: NDArray[np.float32]) -> float:
    total = np.float32(0.0)
    for i in range(len(row)):
        total += row[i]
    return float(total)


@part(fastmath=_FAST)
def _dot(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    total = np.float32(0.0)
    for i in range(len(one)):
        total += one[i] * other[i]
    return float(total)


@part(fastmath=_FAST)
def _departure(
    counts: NDArray[np.float32], top_k: float, tokens_of_mean: float, mean: NDArray[np.float32]
) -> NDArray[np.float32]:
    """``(counts + m mean) / (tokens + m) - mean``: 0 in layers of zeros."""
    departs = np.empty(counts.shape, np.float32)
    for layer in range(len(counts)):
        tokens = _sum(counts[layer]) / top_k
        each = np.float32(1.0 / (tokens + tokens_of_mean))
        less = np.float32(tokens) * each
        for expert in range(counts.shape[1]):
            departs[layer, expert] = counts[layer, expert] * each - mean[layer, expert] * less
    return departs


@part()
def _sketch(
    departs: NDArray[np.float32],
    buckets: NDArray[np.int64],
    signs: NDArray[np.float32],
    short: NDArray[np.float32],
) -> None:
    """Compute a vector whose dot products approximate departures' cosines: a count sketch."""
    flat = departs.reshape(departs.size)
    short[:] = 0.0
    for i in range(len(flat)):
        short[buckets[i]] += signs[i] * flat[i]
    length = np.sqrt(_dot(short, short))
    if length > 0.0:
        short *= np.float32(1.0 / length)


@kernel(_PREDICT, fastmath=_FAST)
def predict_use(
    counts: NDArray[np.float32],
    top_k: float,
    tokens_of_mean: float,
    mean: NDArray[np.float32],
    drift: NDArray[np.float32],
    known: float,
    reliability: NDArray[np.float32],
    buckets: NDArray[np.int64],
    signs: NDArray[np.float32],
    sketches: NDArray[np.float32],
    residuals: NDArray[np.int8],
    scales: NDArray[np.float64],
    finished: int,
) -> NDArray[np.float32]:
    """Predict the probability that a token of the decode uses each expert.

    ``mean + known drift + reliability departure + sum_j w_j scales[j] residuals[j]`` over the
    `NEIGHBOURS` most similar finished requests, ``w_j = exp(SHARPNESS (cosine_j - 1)) / (DOUBT +
    their sum)``, where ``departure = (counts + m mean) / (tokens + m) - mean``.

    Parameters
    ----------
    counts : ndarray of float32, shape [L, E]
        Of the prefill; a layer of zeros, about which nothing is known, has no departure.
    top_k : float
        Experts of a token: a layer's counts sum to tokens x top_k.
    tokens_of_mean : float
        m: the mean counts as this many tokens.
    mean : ndarray of float32, shape [L, E]
        Mean of prefills.
    drift : ndarray of float32, shape [L, E]
        Mean of decodes less that of prefills.
    known : float
        Weight of the drift, 0 to 1.
    reliability : ndarray of float32, shape [L]
        How much of a prefill's departure persists in the decode.
    buckets : ndarray of int64, shape [L * E]
        Drawn once, each from 0 to below S.
    signs : ndarray of float32, shape [L * E]
        Drawn once, each 1 or -1.
    sketches : ndarray of float32, shape [M, S]
        Of finished requests' departures: their dot products approximate the cosines.
    residuals : ndarray of int8, shape [M, L * E]
        What their decodes used beyond the first three terms, in units of scales [M].
    finished : int
        Number of filled rows of these.

    Returns
    -------
    ndarray of float32, shape [L * E]
        From 0 to 1.
    """
    layers, experts = counts.shape
    if mean.shape != counts.shape:
        raise ValueError("mean must have the shape of counts")
    if finished > min(len(sketches), len(residuals)) or residuals.shape[1] != counts.size:
        raise ValueError("sketches and residuals must have the rows that are filled")
    departs = _departure(counts, top_k, tokens_of_mean, mean)
    probabilities = np.empty((layers, experts), np.float32)
    believed = np.float32(known)
    for layer in range(layers):
        lasting = reliability[layer]
        for e in range(experts):
            probabilities[layer, e] = (
                mean[layer, e] + believed * drift[layer, e] + lasting * departs[layer, e]
            )
    flat = probabilities.reshape(counts.size)
    own = np.empty(sketches.shape[1], np.float32)
    _sketch(departs, buckets, signs, own)
    cosines = np.empty(finished, np.float64)
    for j in range(finished):
        cosines[j] = _dot(own, sketches[j])
    nearest = np.empty(min(NEIGHBOURS, finished), np.int64)
    weights = np.empty(len(nearest), np.float64)
    for k in range(len(nearest)):  # on ties the first
        nearest[k] = np.argmax(cosines)
        weights[k] = np.exp(SHARPNESS * (cosines[nearest[k]] - 1.0))
        cosines[nearest[k]] = -2.0
    weights /= DOUBT + weights.sum()
    for k in range(len(nearest)):
        weight = np.float32(weights[k] * scales[nearest[k]])
        residual = residuals[nearest[k]]
        for i in range(len(flat)):
            flat[i] += weight * np.float32(residual[i])
    for i in range(len(flat)):
        flat[i] = min(max(flat[i], np.float32(0.0)), np.float32(1.0))
    return flat


@kernel(_FOLLOW, fastmath=_FAST)
def follow_counts(
    mean: NDArray[np.float32], counts: NDArray[np.float32], top_k: float, rate: float
) -> None:
    """Move a mean towards one request's frequencies, in place; layers of zeros are ignored.

    Parameters
    ----------
    mean, counts : ndarray of float32, shape [L, E]
    top_k : float
    rate : float
        Step size, 0 to 1.
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
    prefill: NDArray[np.float32],
    top_k: float,
    tokens_of_mean: float,
    decode: NDArray[np.float32],
    mean: NDArray[np.float32],
    drift: NDArray[np.float32],
    rate: float,
    keep: float,
    known: float,
    sums: NDArray[np.float64],
    reliability: NDArray[np.float32],
    buckets: NDArray[np.int64],
    signs: NDArray[np.float32],
    sketch: NDArray[np.float32],
    residual: NDArray[np.int8],
) -> float:
    """Learn from a finished request, in place; layers of zeros are ignored.

    Parameters
    ----------
    prefill, top_k, tokens_of_mean, mean, buckets, signs
        As for `predict_use`.
    decode : ndarray of float32, shape [L, E]
        Counts.
    drift : ndarray of float32, shape [L, E]
        Moved by `rate` towards this decode's difference from `mean`.
    keep : float
        Factor on the sums, to forget older ones.
    known : float
        Weight of what was learned, 0 to 1.
    sums : ndarray of float64, shape [2, L]
        Of squared departures, and of their products with the decodes' differences beyond the drift.
    reliability : ndarray of float32, shape [L]
        Becomes their quotient, pulled towards 1 while little is known.
    sketch : ndarray of float32, shape [S]
        Becomes the request's sketch.
    residual : ndarray of int8, shape [L * E]
        Becomes what the decode used beyond mean, drift and prefill.

    Returns
    -------
    float
        The unit of `residual`.
    """
    layers, experts = prefill.shape
    if decode.shape != prefill.shape or sums.shape[1] != layers or len(residual) != prefill.size:
        raise ValueError("decode, sums and residual must have the layers of prefill")
    departs = _departure(prefill, top_k, tokens_of_mean, mean)
    _sketch(departs, buckets, signs, sketch)
    moved, believed = np.float32(rate), np.float32(known)
    beyond = np.zeros((layers, experts), np.float32)
    largest = np.float32(0.0)
    for layer in range(layers):
        picks = _sum(decode[layer])
        if picks <= 0.0:
            continue
        each = np.float32(top_k / picks)
        squares = products = np.float32(0.0)
        for e in range(experts):
            off = decode[layer, e] * each - mean[layer, e]
            drift[layer, e] += moved * (off - drift[layer, e])
            squares += departs[layer, e] * departs[layer, e]
            products += departs[layer, e] * (off - drift[layer, e])
        sums[0, layer] = keep * sums[0, layer] + squares
        sums[1, layer] = keep * sums[1, layer] + products
        if sums[0, layer] > 0.0:
            reliability[layer] = 1.0 + known * (sums[1, layer] / sums[0, layer] - 1.0)
        for e in range(experts):
            beyond[layer, e] = (
                decode[layer, e] * each
                - mean[layer, e]
                - believed * drift[layer, e]
                - reliability[layer] * departs[layer, e]
            )
            largest = max(largest, abs(beyond[layer, e]))
    unit = largest / np.float32(_LARGEST)
    inverse = np.float32(1.0) / unit if unit > 0.0 else np.float32(0.0)
    flat = beyond.reshape(prefill.size)
    for i in range(len(flat)):
        residual[i] = np.int8(np.rint(flat[i] * inverse))
    return float(unit)
