"""Which experts a request's decode will use, from its prefill and what finished requests did."""

import numpy as np
from numba import float32, float64, int64, njit, types
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
    readonly(float32, 1),
    readonly(float32, 1),
    readonly(float32, 2),
    readonly(float32, 2),
    int64,
)


@kernel(_DEPARTURE, fastmath={"reassoc", "contract"})
def departure(
    counts: NDArray[np.float32], top_k: float, mean: NDArray[np.float32], tokens_of_mean: float
) -> NDArray[np.float32]:
    """How a request's use of experts departs from the mean, shrunk where few tokens say so.

    Parameters
    ----------
    counts : ndarray of float32, shape [L, E]
        A layer that nothing is known of is all zeros, and departs by nothing.
    top_k : float
    mean : ndarray of float32, shape [L, E]
        Probabilities that a token uses each expert.
    tokens_of_mean : float
        The mean counts as so many tokens.

    Returns
    -------
    ndarray of float32, shape [L, E]
        ``(counts + tokens_of_mean * mean) / (tokens + tokens_of_mean) - mean``
    """
    layers, experts = counts.shape
    if mean.shape != counts.shape:
        raise ValueError("mean must have the shape of counts")
    departs = np.empty((layers, experts), np.float32)
    for layer in range(layers):
        picks = np.float32(0.0)
        for expert in range(experts):
            picks += counts[layer, expert]
        tokens = picks / top_k
        each = np.float32(1.0 / (tokens + tokens_of_mean))
        less = np.float32(tokens) * each
        for expert in range(experts):
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
    layers, experts = departs.shape
    if len(buckets) != layers * experts or len(signs) != layers * experts:
        raise ValueError("buckets and signs must have one entry an expert of a layer")
    short = np.zeros(size, np.float32)
    i = 0
    for layer in range(layers):
        for expert in range(experts):
            short[buckets[i]] += signs[i] * departs[layer, expert]
            i += 1
    squares = 0.0
    for k in range(size):
        squares += short[k] * short[k]
    if squares > 0.0:
        short *= np.float32(1.0 / np.sqrt(squares))
    return short


@njit(fastmath={"reassoc", "contract"})
def _dot(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    total = np.float32(0.0)
    for i in range(len(one)):
        total += one[i] * other[i]
    return total


@kernel(_PREDICT)
def predict_use(
    departs: NDArray[np.float32],
    base: NDArray[np.float32],
    reliability: NDArray[np.float32],
    own: NDArray[np.float32],
    sketches: NDArray[np.float32],
    residuals: NDArray[np.float32],
    finished: int,
) -> NDArray[np.float32]:
    """Predict with what probability a decode's token uses each expert.

    ``base + reliability * departs + sum_j w_j residuals[j]`` over the `NEIGHBOURS` finished requests
    most similar by cosine, with ``w_j = exp(SHARPNESS (cosine_j - 1)) / (DOUBT + their sum)``.

    Parameters
    ----------
    departs : ndarray of float32, shape [L, E]
        See `departure`.
    base : ndarray of float32, shape [L, E]
        Mean probabilities in decodes.
    reliability : ndarray of float32, shape [L]
        How much of a prefill's departure lasts in the decode.
    own : ndarray of float32, shape [S]
        The request's sketch.
    sketches : ndarray of float32, shape [M, S]
    residuals : ndarray of float32, shape [M, L * E]
        By how much decodes of finished requests were off ``base + reliability * departs``.
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
    probabilities = np.empty(layers * experts, np.float32)
    i = 0
    for layer in range(layers):
        for expert in range(experts):
            lasting = reliability[layer] * departs[layer, expert]
            probabilities[i] = base[layer, expert] + lasting
            i += 1
    cosines = np.empty(finished, np.float64)
    for j in range(finished):
        cosines[j] = _dot(own, sketches[j])
    total = DOUBT
    nearest = np.argsort(-cosines, kind="mergesort")[:NEIGHBOURS]  # of equals, the first
    for j in nearest:
        total += np.exp(SHARPNESS * (cosines[j] - 1.0))
    for j in nearest:
        weight = np.float32(np.exp(SHARPNESS * (cosines[j] - 1.0)) / total)
        residual = residuals[j]
        for i in range(len(probabilities)):
            probabilities[i] += weight * residual[i]
    for i in range(len(probabilities)):
        probabilities[i] = min(max(probabilities[i], np.float32(0.0)), np.float32(1.0))
    return probabilities
