"""Adapts a partition to its workers at once, before there is time for a refit."""

import time

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.partition import Partition
from eldr_service.fitting.lloyd import cluster, seed_centers
from eldr_service.fitting.refit import Bound, mean_distance
from eldr_service.fitting.signatures import DenseSignatures

_MAX_ITER = 20  # only a stopgap


def reshaped(counts: NDArray[np.integer], current: Bound) -> Bound:
    """Merge vacant slots into their nearest, and split those that several workers share.

    A merged slot is the mean of both, weighted by the recent requests nearest to each. A shared
    slot is split by balanced k-means of its recent requests into one per worker; if there are too
    few, it stays shared.

    Parameters
    ----------
    counts : ndarray of int, shape [n, L, E]
    current : Bound

    Returns
    -------
    Bound
        Without vacant slots, with the new slot of each worker; a worker that was alone in its slot
        keeps it, except for its number.
    """
    old = current.partition
    signatures = old.transform.apply(counts)
    signatures = signatures[signatures.any(axis=1)]
    centers = old.centroids.astype(np.float64)
    weight = np.bincount(_nearest(signatures, old.centroids), minlength=old.num_slots)
    slots = np.array(current.slots)
    bound = np.unique(slots)
    for vacant in np.setdiff1d(np.arange(old.num_slots), bound):
        into = bound[np.argmax(centers[bound] @ centers[vacant])]
        total = weight[into] * centers[into] + weight[vacant] * centers[vacant]
        if total.any():
            centers[into] = total / np.linalg.norm(total)
        weight[into] += weight[vacant]
    centers = centers.astype(np.float32)

    nearest = bound[_nearest(signatures, centers[bound])]
    made: list[NDArray[np.float32]] = []
    slot_of = np.empty(len(slots), np.int64)
    for slot in bound:
        sharing = np.flatnonzero(slots == slot)
        parts = _split(signatures[nearest == slot], centers[slot], len(sharing))
        slot_of[sharing] = len(made) + np.arange(len(sharing)) % len(parts)
        made += list(parts)
    centroids = np.stack(made)
    metadata = {
        "algorithm": "merge and split",
        "signatures": str(len(counts)),
        "refit_reason": "membership",
        "refit_distance": f"{mean_distance(signatures @ centroids.T):.6f}",
        "refit_of": str(old.version),
    }
    partition = Partition(
        old.model, old.transform, centroids, metadata=metadata, created=time.time()
    )
    return Bound(partition, tuple(slot_of.tolist()))


def _nearest(signatures: NDArray[np.float32], centers: NDArray[np.float32]) -> NDArray[np.int64]:
    nearest: NDArray[np.int64] = (signatures @ centers.T).argmax(axis=1)
    return nearest


def _split(
    members: NDArray[np.float32], center: NDArray[np.float32], parts: int
) -> NDArray[np.float32]:
    """Centers [parts, D], the one most like the old center first; only that if it cannot split."""
    if parts == 1 or len(np.unique(members, axis=0)) < parts:
        return center[None]
    signatures = DenseSignatures(members)
    seeds = seed_centers(signatures, parts, np.random.default_rng(0))
    found = cluster(signatures, seeds, _MAX_ITER).centers
    return found[np.argsort(-(found @ center))]
