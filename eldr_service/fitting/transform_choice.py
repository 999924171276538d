"""Which signature transform fits a model's requests best, judged on requests that it has not seen.

Signatures of different transforms cannot be compared with each other: their cosines have different
scales. What the partition is for can: how many experts a decode step touches.
"""

from typing import cast

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.signature import (
    TRANSFORMS,
    SignatureTransform,
    TransformName,
    inverse_document_frequency,
)
from eldr_service.fitting.active_experts import predicted, shares
from eldr_service.fitting.lloyd import assign, cluster, seed_centers

# Taken when there are too few requests to hold any back: it needs no calibration data, unlike idf,
# and long rows of counts do not drown the others, unlike plain counts.
WITHOUT_EVIDENCE = "sqrt"


def calibrated(
    name: str, counts: NDArray[np.integer], geometry: ModelGeometry, layers: NDArray[np.int64]
) -> SignatureTransform:
    """Make the transform `name`, its idf, if it has one, taken from counts [n, L, E]."""
    idf = inverse_document_frequency(counts) if name == "counts-idf" else None
    return SignatureTransform(geometry, cast(TransformName, name), layers, idf)


def held_out_scores(
    counts: NDArray[np.integer],
    geometry: ModelGeometry,
    layers: NDArray[np.int64],
    n_clusters: int,
    max_iter: int,
    random_state: int,
) -> dict[str, float]:
    """Score each transform by the experts that held-out requests would touch in their clusters.

    The requests are shuffled and halved. Each half in turn calibrates the transform and is
    clustered; the other half is assigned to the clusters under the same balance. The score is the
    mean of `active_experts.predicted`, lower is better.

    Parameters
    ----------
    counts : ndarray of int, shape [n, L, E]
        With n at least ``2 * n_clusters``.
    geometry : ModelGeometry
    layers : ndarray of int64
        Those kept.
    n_clusters, max_iter, random_state : int

    Returns
    -------
    dict of name to float
        Experts per layer; infinite where a half has no signature at all under that transform.
    """
    order = np.random.default_rng(random_state).permutation(len(counts))
    halves = order[::2], order[1::2]
    share = shares(counts)
    scores = {}
    for name in TRANSFORMS:
        total = 0.0
        for fitted, held_out in (halves, halves[::-1]):
            signatures = calibrated(name, counts[fitted], geometry, layers).apply(counts)
            total += _total(signatures, share, fitted, held_out, n_clusters, max_iter, random_state)
        scores[name] = total / len(counts)
    return scores


def _total(
    signatures: NDArray[np.float32],
    share: NDArray[np.float64],
    fitted: NDArray[np.int64],
    held_out: NDArray[np.int64],
    n_clusters: int,
    max_iter: int,
    random_state: int,
) -> float:
    """Sum of the scores of held-out requests; indices of requests in `fitted` and `held_out`."""
    if not signatures[fitted].any():
        return np.inf
    start = seed_centers(signatures[fitted], n_clusters, np.random.default_rng(random_state))
    clustering = cluster(signatures[fitted], start, max_iter)
    labels, _ = assign(signatures[held_out], clustering.centers)
    return float(predicted(share, fitted, clustering.labels, held_out, labels).sum())
