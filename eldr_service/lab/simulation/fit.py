"""Partitions of recorded requests, with a given signature transform."""

import warnings

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.partition import Partition
from eldr_service.fitting import fit_partition
from eldr_service.lab.recordings import Recording
from eldr_service.lab.simulation.simulate import MODEL


def fit(
    recording: Recording, requests: NDArray[np.int64], transform: str, slots: int, seed: int
) -> Partition | None:
    """Fit on the prefills of these requests; ValueError as from `fit_partition`.

    None if `counts-idf` leaves nothing to compare, as all requests use the same experts: policies
    that read signatures then take the least loaded worker.
    """
    counts = recording.prefill_counts()[requests]
    used_by = np.count_nonzero(counts, axis=0)
    if transform == "counts-idf" and not ((used_by > 0) & (used_by < len(counts))).any():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the effect of a small idf is simulated
        return fit_partition(
            MODEL,
            counts,
            recording.geometry,
            n_clusters=slots,
            transform=transform,
            random_state=seed,
        )
