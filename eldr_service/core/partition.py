"""A partition: unit centroids that signatures are compared with. Immutable."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.errors import InvalidArgumentError
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.signature import SignatureTransform


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """K unit centroids (its slots) and the transform that made them.

    Attributes
    ----------
    model : str
    transform : SignatureTransform
    centroids : ndarray of float32, shape [K, transform.size]
        Rows of unit length.
    version : int
        Assigned when the partition is stored; 0 before.
    bindings : mapping of worker id to slot
        Wishes from the file; `core.bindings.Bindings` has the actual bindings.
    metadata : mapping of str to str
        How it was fitted: algorithm, signatures, inertia, iterations, seed.
    created : float
        Unix seconds.
    """

    model: str
    transform: SignatureTransform
    centroids: NDArray[np.float32]
    _: KW_ONLY
    version: int = 0
    bindings: Mapping[str, int] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    created: float = 0.0

    def __post_init__(self) -> None:
        c = self.centroids
        if c.ndim != 2 or not len(c) or c.shape[1] != self.transform.size:
            expected = f"shape [K, {self.transform.size}], K at least 1"
            raise InvalidArgumentError("centroids", expected, list(c.shape))
        norms = np.linalg.norm(c.astype(np.float64), axis=1)
        if not np.allclose(norms, 1.0, atol=1e-3):  # False for NaN too
            raise InvalidArgumentError("centroids", "rows of unit length", norms.tolist())
        for worker, slot in self.bindings.items():
            if not 0 <= slot < len(c):
                raise InvalidArgumentError(f"bindings[{worker}]", f"below {len(c)}", slot)

    @property
    def geometry(self) -> ModelGeometry:
        """The model's geometry."""
        return self.transform.geometry

    @property
    def num_slots(self) -> int:
        """K."""
        return len(self.centroids)

    @property
    def spread(self) -> float:
        """See `spread_of`."""
        return spread_of(self.centroids)


def spread_of(centroids: NDArray[np.float32]) -> float:
    """1 less the mean cosine of two unit centroids [K, D]; 0 for a single one.

    It is about how much less similar a request is to another slot's centroid than to its own, and
    so the unit in which a width means the same under every transform.
    """
    if (k := len(centroids)) == 1:
        return 0.0
    exact = centroids.astype(np.float64)
    total = exact.sum(axis=0)
    cosines = total @ total - np.vdot(exact, exact)  # of the k * (k - 1) pairs
    return max(0.0, float(1 - cosines / (k * (k - 1))))
