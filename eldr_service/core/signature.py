"""Signature transforms: from activation counts to unit vectors that can be compared."""

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.activation import Counts
from eldr_service.core.errors import InvalidArgumentError
from eldr_service.core.geometry import ModelGeometry
from eldr_service.kernels import transform_signature

TransformName = Literal["counts", "counts-idf", "sqrt"]
_ONES = np.empty((0, 0), dtype=np.float32)  # how the kernel represents them
TRANSFORMS: tuple[str, ...] = get_args(TransformName)


@dataclass(frozen=True, slots=True, eq=False)
class SignatureTransform:
    """counts [L, E] -> rows of the layer mask -> x idf or square root -> flat -> unit L2 length.

    Attributes
    ----------
    geometry : ModelGeometry
    name : {"counts", "counts-idf", "sqrt"}
        `counts-idf` is the paper's; with `sqrt` the cosine is a Hellinger affinity.
    layers : ndarray of int64, shape [layers kept]
        The layer mask as ascending layer numbers; all layers by default.
    idf : ndarray of float32, shape [num_layers, num_experts], or None
        Only with `counts-idf`; ``ln((N + 1) / (df + 1))`` over N calibration requests.
    weights : ndarray of float32, shape [layers kept, num_experts]
        Factors of the kept counts: their idf, else ones.
    """

    geometry: ModelGeometry
    name: TransformName = "counts"
    layers: NDArray[np.int64] | None = None
    idf: NDArray[np.float32] | None = None
    weights: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        g = self.geometry
        if self.name not in TRANSFORMS:
            raise InvalidArgumentError("transform", f"one of {', '.join(TRANSFORMS)}", self.name)
        layers = (
            np.arange(g.num_layers)
            if self.layers is None
            else np.asarray(self.layers, dtype=np.int64)
        )
        if layers.ndim != 1 or not layers.size or (np.diff(layers) <= 0).any():
            raise InvalidArgumentError("layers", "ascending layer numbers", layers.tolist())
        if layers[0] < 0 or layers[-1] >= g.num_layers:
            raise InvalidArgumentError("layers", f"0 to {g.num_layers - 1}", layers.tolist())
        object.__setattr__(self, "layers", layers)
        if (self.name == "counts-idf") != (self.idf is not None):
            raise InvalidArgumentError("idf", "values with counts-idf and only there", self.name)
        if self.idf is not None and self.idf.shape != (g.num_layers, g.num_experts):
            expected = f"shape [{g.num_layers}, {g.num_experts}]"
            raise InvalidArgumentError("idf", expected, list(self.idf.shape))
        weights = np.ones((g.num_layers, g.num_experts)) if self.idf is None else self.idf
        object.__setattr__(self, "weights", weights[layers].astype(np.float32))

    @property
    def size(self) -> int:
        """Entries of a signature."""
        assert self.layers is not None
        return len(self.layers) * self.geometry.num_experts

    def signature(self, counts: Counts) -> NDArray[np.float32] | None:
        """The signature [size] of one request's counts [L, E]; None if its norm is zero."""
        assert self.layers is not None
        weights = _ONES if self.idf is None else self.weights
        signature, norm = transform_signature(counts, self.layers, weights, self.name == "sqrt")
        return signature if norm else None

    def apply(self, counts: NDArray[np.integer]) -> NDArray[np.float32]:
        """Transform counts [..., L, E] into signatures [..., size]; zeros if the norm is zero."""
        kept = counts[..., self.layers, :].astype(np.float64)
        if self.name == "sqrt":
            kept = np.sqrt(kept)
        elif self.name == "counts-idf":
            kept = kept * self.weights
        flat = kept.reshape(*kept.shape[:-2], -1)
        norm = np.linalg.norm(flat, axis=-1, keepdims=True)
        unit: NDArray[np.float32] = np.divide(
            flat, norm, out=np.zeros_like(flat), where=norm > 0
        ).astype(np.float32)
        return unit


def inverse_document_frequency(counts: NDArray[np.integer]) -> NDArray[np.float32]:
    """``ln((N + 1) / (df + 1))`` of counts [N, L, E]; df = requests that used the expert."""
    return idf_of(np.count_nonzero(counts, axis=0), len(counts))


def idf_of(df: NDArray[np.integer], requests: int) -> NDArray[np.float32]:
    """Like `inverse_document_frequency`, from df [L, E] and the number of requests N."""
    idf: NDArray[np.float32] = np.log((requests + 1) / (df + 1)).astype(np.float32)
    return idf
