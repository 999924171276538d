"""Balanced spherical k-means on signatures: seeding, assignment, unit means.

Sources: k-means++ (Arthur and Vassilvitskii, SODA 2007) for the seeding; Lloyd's iterations with an
exact balanced assignment in place of the nearest centroid (Malinen and Fränti, S+SSPR 2014).

After the first iterations few signatures move, so an iteration recomputes only what they change:
the sums of their clusters, the similarities with those, and, starting from the last prices, the
assignment.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eldr_service.fitting.signatures import Signatures
from eldr_service.kernels.fitting.assignment import assignment_with_prices

Progress = Callable[[int, int, float], None]

# Signatures are float32: below this, cosine distance is rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Clustering:
    """K centers and their members.

    Attributes
    ----------
    centers : ndarray of float32, shape [K, D]
        Rows of unit length.
    labels : ndarray of int32, shape [n]
        The balanced assignment to exactly these centers.
    inertia : float
        Sum of cosine distances ``1 - signature . center``.
    n_iter : int
    """

    centers: NDArray[np.float32]
    labels: NDArray[np.int32]
    inertia: float
    n_iter: int


def cluster(
    signatures: Signatures,
    centers: NDArray[np.float32],
    max_iter: int,
    progress: Progress | None = None,
) -> Clustering:
    """Iterate from `centers` until no label changes, or `max_iter` times.

    Parameters
    ----------
    signatures : Signatures
        At least one is not zero.
    centers : ndarray of float32, shape [K, D]
    max_iter : int
    progress : callable of (iteration, max_iter, inertia), optional
    """
    centers = centers.copy()
    whole = signatures.whole()
    similarity = signatures.similarities(centers)
    labels, prices = _assigned(similarity)
    sums = np.zeros(centers.shape)
    previous = np.full_like(labels, -1)
    inertia = 0.0
    iteration = 0
    for iteration in range(1, max_iter + 1):
        signatures.move(sums, previous, labels)
        moved = labels != previous
        changed = np.union1d(labels[moved], previous[moved][previous[moved] >= 0])
        _replace_centers(centers, similarity, signatures, sums, labels, whole, changed)
        previous = labels
        labels, prices = _assigned(similarity, prices)
        inertia = _inertia(similarity, labels)
        if progress is not None:
            progress(iteration, max_iter, inertia)
        if np.array_equal(labels, previous):
            break
    return Clustering(centers, labels, inertia, iteration)


def assign(signatures: Signatures, centers: NDArray[np.float32]) -> tuple[NDArray[np.int32], float]:
    """Balanced labels, at most ``ceil(n / K)`` per center, and their inertia."""
    similarity = signatures.similarities(centers)
    labels, _ = _assigned(similarity)
    return labels, _inertia(similarity, labels)


def seed_centers(
    signatures: Signatures, n_clusters: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw signatures, with probability by their cosine distance to the nearest one drawn before.

    That distance is half the squared Euclidean one, by which k-means++ weights. Zero signatures are
    never drawn; others repeat only if there are too few distinct ones.
    """
    whole = signatures.whole().astype(np.float64)
    distance = whole
    centers = []
    for _ in range(n_clusters):
        weight = distance if distance.any() else whole
        drawn = rng.choice(len(signatures), size=1, p=weight / weight.sum())
        centers.append(signatures.rows(drawn))
        to_drawn = 1.0 - signatures.similarities(centers[-1])[:, 0].astype(np.float64)
        distance = np.minimum(distance, np.where(to_drawn > _ROUNDING, to_drawn, 0.0))
    return np.concatenate(centers)


def _assigned(
    similarity: NDArray[np.float32], prices: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    n, n_clusters = similarity.shape
    return assignment_with_prices(-similarity, -(-n // n_clusters), start=prices)


def _inertia(similarity: NDArray[np.float32], labels: NDArray[np.int32]) -> float:
    own = similarity[np.arange(len(labels)), labels]
    return float((1.0 - own.astype(np.float64)).sum())


def _replace_centers(
    centers: NDArray[np.float32],
    similarity: NDArray[np.float32],
    signatures: Signatures,
    sums: NDArray[np.float64],
    labels: NDArray[np.int32],
    whole: NDArray[np.bool_],
    changed: NDArray[np.int32],
) -> None:
    """Set the changed clusters' centers to normalised means, and compare all signatures with them.

    A cluster without a mean takes the signature farthest from its own mean, each another one.
    """
    members = np.bincount(labels[whole], minlength=len(centers))
    lost = np.flatnonzero(members == 0)
    sums[lost] = 0.0  # rounding errors of members that left
    fresh = changed[members[changed] > 0]
    means = sums[fresh]
    centers[fresh] = means / np.sqrt(np.einsum("kd,kd->k", means, means))[:, None]
    similarity[:, fresh] = signatures.similarities(centers[fresh])
    if len(lost):
        own = similarity[np.arange(len(labels)), labels]
        own[~whole] = np.inf
        farthest = np.argsort(own, kind="stable")[: whole.sum()]
        centers[lost] = signatures.rows(np.resize(farthest, len(lost)))
        similarity[:, lost] = signatures.similarities(centers[lost])
