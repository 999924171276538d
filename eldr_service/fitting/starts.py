"""Starting points of balanced k-means: several seeds, on a sample if there are many signatures.

The first iterations move many signatures and only bring the centers close to their final places,
which a sample does as well: its means differ from those of all by sampling error, which the
iterations on all then remove. So starts compete on the sample, and only the best one continues.
"""

import numpy as np
from numpy.typing import NDArray

from eldr_service.fitting.lloyd import Clustering, Progress, cluster, seed_centers
from eldr_service.fitting.signatures import Signatures

_SAMPLE = 4_096  # fewest signatures
_SAMPLE_OF_CLUSTER = 64  # per cluster: a mean is then off by an eighth of the clusters' spread
_WORTH_SAMPLING = 2  # times the sample


def cluster_from_seeds(
    signatures: Signatures,
    n_clusters: int,
    max_iter: int,
    n_init: int,
    rng: np.random.Generator,
    progress: Progress | None = None,
) -> Clustering:
    """Cluster from `n_init` draws of k-means++, and keep the result with the least inertia.

    If there are more than twice 4,096 signatures, and more than twice 64 per cluster, the draws are
    made and converge on a random sample of that size. `progress` gets iterations over all of that,
    and for the sample's, the inertia scaled to all.
    """
    n = len(signatures)
    size = max(_SAMPLE, _SAMPLE_OF_CLUSTER * n_clusters)
    sampled = n > _WORTH_SAMPLING * size
    part = signatures
    if sampled:
        part = signatures.take(np.sort(rng.choice(n, size, replace=False)))
        if not part.whole().any():  # almost all are zero
            sampled, part = False, signatures
    phases = n_init + sampled
    scale = n / len(part)

    best: Clustering | None = None
    for start in range(n_init):
        centers = seed_centers(part, n_clusters, rng)
        report = progress and _as_phase(progress, start, phases, scale)
        clustering = cluster(part, centers, max_iter, report)
        if best is None or clustering.inertia < best.inertia:
            best = clustering
    assert best is not None
    if sampled:
        report = progress and _as_phase(progress, n_init, phases, 1.0)
        best = cluster(signatures, best.centers, max_iter, report)
    return best


def _as_phase(progress: Progress, phase: int, phases: int, scale: float) -> Progress:
    def report(iteration: int, max_iter: int, inertia: float) -> None:
        progress(phase * max_iter + iteration, phases * max_iter, scale * inertia)

    return report


def unit_centers(centers: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Normalise given centers; ValueError if they are not [K, D], finite and nonzero."""
    if centers.shape != shape:
        raise ValueError(
            f"initial_centers must have shape {list(shape)}, got {list(centers.shape)}"
        )
    norms = np.linalg.norm(centers, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and norms.all()):
        raise ValueError("initial_centers must be finite, and no row all zero")
    unit: NDArray[np.float32] = (centers / norms).astype(np.float32)
    return unit
