"""A booking's experts in three bits each: what it adds to a batch, and about its counts."""

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.activation import Counts
from eldr_service.kernels import pack_use, unpack_counts


class PackedUse:
    """What `pack_use` made of a request.

    Attributes
    ----------
    data : ndarray of uint8
    shape : (int, int)
        Layers and experts.
    learns : bool
        The booking keeps its counts as they came, to learn from when it ends.
    """

    __slots__ = ("data", "learns", "shape")

    def __init__(
        self, data: NDArray[np.uint8], shape: tuple[int, int], learns: bool = False
    ) -> None:
        self.data, self.shape, self.learns = data, shape, learns

    @classmethod
    def of(
        cls, probabilities: NDArray[np.float32], counts: Counts | None, shape: tuple[int, int]
    ) -> "PackedUse":
        """Of the predicted use, shape [layers * experts], and counts, where they are known."""
        known = probabilities if counts is None else counts.astype(np.float32).ravel()
        return cls(pack_use(probabilities, known), shape)

    def counts(self) -> Counts:
        """About the prefill's counts: of each expert the mean of its range."""
        layers, experts = self.shape
        counts = unpack_counts(self.data, layers * experts).reshape(self.shape)
        fits = counts.max(initial=0) <= np.iinfo(np.uint16).max
        return counts.astype(np.uint16) if fits else counts
