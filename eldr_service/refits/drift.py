"""How much worse a partition fits recent traffic than what it was fitted on."""

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.partition import Partition

_SIGNATURES = 256  # that the running mean covers
_ROUNDING = 1e-6  # below this, cosine distance is rounding


class Drift:
    """The running mean distance to the nearest centroid, relative to that at the fit.

    The distance at the fit is that of held-out requests if the partition is from a refit, else that
    of the fitted requests, which is slightly less.
    """

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self._expected = _expected_distance(partition)
        self._mean = 0.0
        self._seen = 0

    def update(self, counts: NDArray[np.integer]) -> None:
        """Add counts [n, num_layers, num_experts]; those of another geometry are ignored."""
        transform = self._partition.transform
        if counts.shape[1:] != (transform.geometry.num_layers, transform.geometry.num_experts):
            return
        for one in counts.astype(np.uint32):
            signature = transform.signature(one)
            if signature is not None:
                distance = 1.0 - float((self._partition.centroids @ signature).max())
                self._seen += 1
                self._mean += (distance - self._mean) / min(self._seen, _SIGNATURES)

    @property
    def ratio(self) -> float | None:
        """1 for traffic like that of the fit; None while there is none, or no basis to compare."""
        if not self._seen or self._expected < _ROUNDING:
            return None
        return self._mean / self._expected


def _expected_distance(partition: Partition) -> float:
    """The distance at the fit; 0 if the metadata do not tell."""
    told = partition.metadata
    try:
        if "refit_distance" in told:
            return float(told["refit_distance"])
        return float(told["inertia"]) / float(told["signatures"])
    except (KeyError, ValueError, ZeroDivisionError):  # a file may come from anywhere
        return 0.0
