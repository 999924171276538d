"""From counts to a partition that can be stored and activated."""

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.partition import Partition
from eldr_service.fitting.balanced_kmeans import BalancedKMeans
from eldr_service.fitting.lloyd import Progress
from eldr_service.fitting.transform_choice import ChoiceProgress


def fit_partition(
    model: str,
    counts: NDArray[np.integer],
    geometry: ModelGeometry,
    *,
    n_clusters: int,
    transform: str = "auto",
    layers: Sequence[int] | None = None,
    max_iter: int = 50,
    n_init: int = 1,
    random_state: int = 0,
    progress: Progress | None = None,
    decode_counts: NDArray[np.integer] | None = None,
    choice_progress: ChoiceProgress | None = None,
) -> Partition:
    """Fit a partition with one slot per cluster; its metadata describes the fit.

    Parameters are those of `BalancedKMeans` and its `fit`; `layers` are the layers kept, ascending;
    an empty list or None means all. Raises and warns like `fit`.
    """
    kmeans = BalancedKMeans(
        n_clusters,
        transform=transform,
        layer_mask=list(layers) if layers else None,
        max_iter=max_iter,
        n_init=n_init,
        random_state=random_state,
    ).fit(
        counts,
        progress=progress,
        geometry=geometry,
        decode_counts=decode_counts,
        choice_progress=choice_progress,
    )
    scores = {f"held_out_experts[{k}]": f"{v:.4f}" for k, v in kmeans.transform_scores_.items()}
    return Partition(
        model=model,
        transform=kmeans.transform_,
        centroids=kmeans.cluster_centers_,
        metadata={
            "algorithm": "balanced-kmeans",
            "signatures": str(len(kmeans.labels_)),
            "inertia": f"{kmeans.inertia_:.6f}",
            "iterations": str(kmeans.n_iter_),
            "seed": str(random_state),
            **scores,
        },
        created=time.time(),
    )
