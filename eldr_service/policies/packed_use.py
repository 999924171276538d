"""A booking's experts in three bits each: what it adds to a batch, and its approximate counts."""

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
        Whether the booking keeps its raw counts, to learn from when it ends.
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
        """Pack the predicted use, shape [layers * experts], with the counts if known."""
        known = probabilities if counts is None else counts.astype(np.float32).ravel()
        return cls(pack_use(probabilities, known), shape)

    def counts(self) -> Counts:
        """The prefill's approximate counts: for each expert the mean of its range."""
        layers, experts = self.shape
        counts = unpack_counts(self.data, layers * experts).reshape(self.shape)
        fits = counts.max(initial=0) <= np.iinfo(np.uint16).max
        return counts.astype(np.uint16) if fits else counts
