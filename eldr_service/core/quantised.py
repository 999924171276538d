"""Centroids with a copy of one byte per entry, small enough to compare with all of them first."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_LARGEST = 127


class QuantisedCentroids(NamedTuple):
    """K centroids, each the mean of all plus a quantised deviation.

    ``centroids[k] = mean + scale[k] * codes[k] + rest``, where the rest is no longer than
    `error[k]`: a dot product with the codes is off by at most ``error[k]`` times the other vector's
    length. Most of a centroid is common to all; the codes hold the differences.

    Attributes
    ----------
    centroids : ndarray of float32, shape [K, D]
    mean : ndarray of float32, shape [D]
    codes : ndarray of int8, shape [K, D]
    scale, error, length : ndarray of float64, shape [K]
        `length` is that of ``scale * codes``.
    """

    centroids: NDArray[np.float32]
    mean: NDArray[np.float32]
    codes: NDArray[np.int8]
    scale: NDArray[np.float64]
    error: NDArray[np.float64]
    length: NDArray[np.float64]

    @classmethod
    def of(cls, centroids: NDArray[np.float32]) -> "QuantisedCentroids":
        """Quantise centroids [K, D]."""
        mean = centroids.mean(axis=0, dtype=np.float64).astype(np.float32)
        codes = np.empty(centroids.shape, dtype=np.int8)
        scale, error, length = np.empty((3, len(centroids)))
        for k, centroid in enumerate(centroids.astype(np.float64)):
            deviation = centroid - mean
            scale[k] = np.abs(deviation).max() / _LARGEST
            codes[k] = np.rint(deviation / (scale[k] or 1.0))
            coded = scale[k] * codes[k]
            error[k] = np.linalg.norm(deviation - coded)
            length[k] = np.linalg.norm(coded)
        return cls(
            centroids=centroids, mean=mean, codes=codes, scale=scale, error=error, length=length
        )
