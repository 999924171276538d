"""Balanced spherical k-means on signatures: seeding, assignment, unit means.

Sources: k-means++ (Arthur and Vassilvitskii, SODA 2007) for the seeding; Lloyd's iterations with an
exact balanced assignment in place of the nearest centroid (Malinen and Fränti, S+SSPR 2014).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eldr_service.kernels import balanced_assignment

Progress = Callable[[int, int, float], None]

# Signatures are float32: below this, cosine distance is rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Clustering:
    """K centers and who belongs to them.

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
    signatures: NDArray[np.float32],
    centers: NDArray[np.float32],
    max_iter: int,
    progress: Progress | None = None,
) -> Clustering:
    """Improve `centers` until no label changes, or `max_iter` times.

    Parameters
    ----------
    signatures : ndarray of float32, shape [n, D]
        Rows of unit length or zero; one at least is not zero.
    centers : ndarray of float32, shape [K, D]
    max_iter : int
    progress : callable of (iteration, max_iter, inertia), optional
    """
    labels, inertia = assign(signatures, centers)
    iteration = 0
    for iteration in range(1, max_iter + 1):
        centers = _unit_means(signatures, labels, len(centers))
        previous = labels
        labels, inertia = assign(signatures, centers)
        if progress is not None:
            progress(iteration, max_iter, inertia)
        if np.array_equal(labels, previous):
            break
    return Clustering(centers, labels, inertia, iteration)


def assign(
    signatures: NDArray[np.float32], centers: NDArray[np.float32]
) -> tuple[NDArray[np.int32], float]:
    """Balanced labels, at most ``ceil(n / K)`` a center, and their inertia."""
    distance = 1.0 - (signatures @ centers.T).astype(np.float64)
    labels = balanced_assignment(distance, -(-len(signatures) // len(centers)))
    return labels, float(distance[np.arange(len(labels)), labels].sum())


def seed_centers(
    signatures: NDArray[np.float32], n_clusters: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw signatures, each with odds by its cosine distance to the nearest one drawn before.

    That distance is half the squared Euclidean one, which k-means++ weighs by. Zero signatures are
    never drawn; others repeat only when fewer distinct ones exist.
    """
    whole = signatures.any(axis=1).astype(np.float64)
    distance = whole
    drawn = []
    for _ in range(n_clusters):
        weight = distance if distance.any() else whole
        drawn.append(int(rng.choice(len(signatures), p=weight / weight.sum())))
        to_drawn = 1.0 - (signatures @ signatures[drawn[-1]]).astype(np.float64)
        distance = np.minimum(distance, np.where(to_drawn > _ROUNDING, to_drawn, 0.0))
    return signatures[drawn]


def _unit_means(
    signatures: NDArray[np.float32], labels: NDArray[np.int32], n_clusters: int
) -> NDArray[np.float32]:
    """Normalised means; a cluster without one takes the signature farthest from its own mean."""
    sums = np.stack(
        [signatures[labels == k].sum(axis=0, dtype=np.float64) for k in range(n_clusters)]
    )
    norms = np.linalg.norm(sums, axis=1)
    means = np.divide(sums, norms[:, None], out=sums, where=norms[:, None] > 0)
    lost = np.flatnonzero(norms == 0)
    if len(lost):
        similarity = np.einsum("nd,nd->n", signatures, means[labels])
        similarity[~signatures.any(axis=1)] = np.inf
        farthest = np.argsort(similarity, kind="stable")[: np.isfinite(similarity).sum()]
        means[lost] = signatures[np.resize(farthest, len(lost))]
    unit: NDArray[np.float32] = means.astype(np.float32)
    return unit
