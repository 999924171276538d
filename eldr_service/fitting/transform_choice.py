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
    clustered; the other half is assigned to the clusters under the same balance. With
    ``s[r, l, e]`` the share of request r's picks in layer l that went to expert e, ``q`` the mean
    of ``s`` over the fitted members of r's cluster and E experts a layer, a request's score is the
    expected number of distinct experts touched by E / 2 picks of its own and E / 2 picks of its
    cluster::

        sum over e of 1 - ((1 - s[r, l, e]) * (1 - q[l, e])) ** (E / 2)

    averaged over all layers of the model, kept by the mask or not. E picks are 8 to 16 tokens of
    the usual models (E = 128, top-8: 16), where a step touches some of the experts and not all.
    Picks are taken as independent, which understates all scores alike. Lower is better.

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
    picks = counts.sum(axis=2, keepdims=True, dtype=np.float64)
    share = np.divide(counts, picks, out=np.zeros(counts.shape), where=picks > 0)
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
    draws = share.shape[2] / 2
    total = 0.0
    for label in np.unique(labels):
        # An empty cluster touches nothing of its own: as if the request were alone in its batch.
        members = fitted[clustering.labels == label]
        own = share[held_out[labels == label]]
        mean = share[members].mean(axis=0) if len(members) else own
        missed = ((1.0 - own) * (1.0 - mean)) ** draws
        total += float((1.0 - missed).sum(axis=2).mean(axis=1).sum())
    return total
