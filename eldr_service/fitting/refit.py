"""Fits a new partition to recent traffic, and decides whether it is better."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.partition import Partition
from eldr_service.fitting.active_experts import predicted, shares
from eldr_service.fitting.alignment import aligned
from eldr_service.fitting.lloyd import assign
from eldr_service.fitting.partition import fit_partition
from eldr_service.fitting.signatures import DenseSignatures

# A new partition moves placements away from workers that hold similar requests: it must touch this
# much fewer experts, and by twice the standard error of the difference.
MARGIN = 0.01
ERRORS = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """A partition and the slots that workers are bound to.

    Attributes
    ----------
    partition : Partition
    slots : tuple of int
        The slot of each bound worker.
    """

    partition: Partition
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Refit:
    """The result of a refit.

    Attributes
    ----------
    partition : Partition
        Its slots are numbered like those they succeed; scores are in its metadata.
    carried : tuple of int
        For each old slot its successor; -1 for none.
    better : bool
        Whether it should be taken.
    """

    partition: Partition
    carried: tuple[int, ...]
    better: bool


def refit(
    counts: NDArray[np.integer],
    model: str,
    geometry: ModelGeometry,
    num_slots: int,
    current: Bound | None,
    reason: str,
) -> Refit:
    """Fit a partition, and compare it with the current one on requests held out from the fit.

    Every other request of the newer half is held out. Under both partitions the other requests are
    assigned, and then the held-out ones, with the same balance, and scored by
    `active_experts.predicted`. A slot shared by several workers counts as many times, so that a
    candidate with one slot per worker is compared with what the workers really do; requests are
    shuffled, as such slots tie and ties go by the order. Without a current partition, any is
    better.

    Parameters
    ----------
    counts : ndarray of int, shape [n, L, E]
        Oldest first.
    model, geometry, num_slots
        Of the new partition.
    current : Bound or None
    reason : str
        For the metadata.

    Raises
    ------
    ValueError
        As for `fit_partition`.
    """
    n = len(counts)
    shuffled = np.random.default_rng(0).permutation(n)
    is_held_out = (shuffled >= n // 2) & ((shuffled - n // 2) % 2 == 0)
    fitted, held_out = shuffled[~is_held_out], shuffled[is_held_out]
    made = fit_partition(model, counts[fitted], geometry, n_clusters=num_slots)
    share = shares(counts)
    signatures = made.transform.apply(counts)
    similarity = signatures @ made.centroids.T
    experts = _experts(share, signatures, made.centroids, fitted, held_out)
    metadata = {
        **made.metadata,
        "refit_reason": reason,
        "refit_distance": f"{mean_distance(similarity[held_out]):.6f}",
        "refit_experts": f"{experts.mean():.4f}",
    }
    if current is None:
        return Refit(replace(made, metadata=metadata), (), better=True)

    old = current.partition
    old_signatures = old.transform.apply(counts)
    slots = np.array(current.slots)
    before = _experts(share, old_signatures, old.centroids[slots], fitted, held_out)
    saved = before - experts
    error = saved.std() / np.sqrt(len(saved))
    better = saved.mean() > max(MARGIN * before.mean(), ERRORS * error)

    bound = np.unique(slots)
    old_nearest = bound[(old_signatures @ old.centroids[bound].T).argmax(axis=1)]
    order, carried = aligned(similarity.argmax(axis=1), old_nearest, num_slots, old.num_slots)
    place = np.argsort(order)
    moved = (place[similarity.argmax(axis=1)] != carried[old_nearest]).mean()
    metadata |= {
        "refit_experts_before": f"{before.mean():.4f}",
        "refit_moved": f"{moved:.4f}",
        "refit_of": str(old.version),
    }
    partition = replace(made, centroids=made.centroids[order], metadata=metadata)
    return Refit(partition, tuple(carried.tolist()), bool(better))


def mean_distance(similarity: NDArray[np.floating]) -> float:
    """Mean cosine distance to the nearest centroid, of similarities [n, K]."""
    return float(1.0 - similarity.max(axis=1).mean())


def _experts(
    share: NDArray[np.float32],
    signatures: NDArray[np.float32],
    centroids: NDArray[np.float32],
    fitted: NDArray[np.int64],
    held_out: NDArray[np.int64],
) -> NDArray[np.float64]:
    labels, held_out_labels = (
        assign(DenseSignatures(signatures[chosen]), centroids)[0] for chosen in (fitted, held_out)
    )
    return predicted(share[held_out], held_out_labels, share[fitted], labels)
