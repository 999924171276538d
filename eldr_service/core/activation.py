"""Activation counts: how often a prefill's tokens picked each expert of each layer."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.errors import InvalidArgumentError
from eldr_service.core.geometry import ModelGeometry
from eldr_service.kernels import wrong_row

Counts = NDArray[np.uint16] | NDArray[np.uint32]

_U16, _U32 = np.dtype("<u2"), np.dtype("<u4")  # on the wire

# Keeps every sum of counts within 32 bits for top_k <= 64.
MAX_TOKENS = 1 << 26


@dataclass(frozen=True, slots=True, eq=False)
class ActivationCounts:
    """The counts of a prefill, or of a part of its tokens or layers.

    Attributes
    ----------
    geometry : ModelGeometry
        The whole model's.
    layer_offset : int
        The first layer present.
    counts : ndarray of uint16 or uint32, shape [layers_present, num_experts]
        Each row sums to ``num_tokens * top_k``.
    num_tokens : int
        Tokens in every row.
    unknown_tokens : int
        Prompt tokens whose experts could not be known; not in any row.
    """

    geometry: ModelGeometry
    layer_offset: int
    counts: Counts
    num_tokens: int
    unknown_tokens: int = 0

    def __post_init__(self) -> None:
        g = self.geometry
        if self.counts.ndim != 2 or self.counts.shape[1] != g.num_experts:
            expected = f"shape [layers_present, {g.num_experts}]"
            raise InvalidArgumentError("counts", expected, list(self.counts.shape))
        present = self.counts.shape[0]
        if present < 1 or self.layer_offset + present > g.num_layers:
            raise InvalidArgumentError(
                "layers_present", f"1 to {g.num_layers - self.layer_offset} layers", present
            )
        for field in ("num_tokens", "unknown_tokens"):
            if not 0 <= getattr(self, field) <= MAX_TOKENS:
                raise InvalidArgumentError(field, f"0 to {MAX_TOKENS}", getattr(self, field))
        wanted = self.num_tokens * g.top_k
        row = wrong_row(self.counts, wanted)
        if row >= 0:
            raise InvalidArgumentError(
                "counts",
                f"each row to sum to num_tokens x top_k = {wanted}",
                f"{self.counts[row].sum(dtype=np.uint64)} in the row of layer"
                f" {self.layer_offset + row}",
            )

    @property
    def whole(self) -> bool:
        """Whether every layer of the model is present."""
        return len(self.counts) == self.geometry.num_layers

    @property
    def coverage(self) -> float:
        """Share of the tokens whose experts are known, 0 to 1."""
        tokens = self.num_tokens + self.unknown_tokens
        return self.num_tokens / tokens if tokens else 0.0


def layers_present(geometry: ModelGeometry, layer_offset: int, declared: int) -> int:
    """Rows that counts must have: `declared`, or if that is 0, all from `layer_offset` on."""
    if layer_offset >= geometry.num_layers:
        raise InvalidArgumentError("layer_offset", f"below {geometry.num_layers}", layer_offset)
    rest = geometry.num_layers - layer_offset
    if declared > rest:
        raise InvalidArgumentError("layers_present", f"at most {rest}", declared)
    return declared or rest


def dense_counts(data: bytes, rows: int, geometry: ModelGeometry, width: int) -> Counts:
    """View little-endian counts of 2 or 4 bytes each, row-major [rows, num_experts], in place."""
    expected = rows * geometry.num_experts * width
    if len(data) != expected:
        raise InvalidArgumentError(
            f"dense_u{8 * width}",
            f"{expected} bytes ({rows} layers x {geometry.num_experts} experts x {width})",
            f"{len(data)} bytes",
        )
    shape = (rows, geometry.num_experts)
    if width == 2:
        return np.frombuffer(data, dtype=_U16).astype(np.uint16, copy=False).reshape(shape)
    return np.frombuffer(data, dtype=_U32).astype(np.uint32, copy=False).reshape(shape)
