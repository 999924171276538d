"""Activation counts from NumPy arrays, in the smallest encoding of the contract that fits."""

from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
from eldr.v1.activation_pb2 import ActivationCounts, SparseCounts
from numpy.typing import NDArray

_U16_MAX = np.iinfo(np.uint16).max
_U32_MAX = np.iinfo(np.uint32).max


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """How often the tokens of a prefill, or of a part of it, picked each expert.

    Attributes
    ----------
    array : ndarray of integers, shape [layers_present, num_experts]
        MoE layers only, logical routed experts only. Each row sums to ``num_tokens * top_k``.
    top_k : int
        Experts that each token picks per layer.
    num_tokens : int, optional
        Tokens in every row. Derived from the rows when not given.
    unknown_tokens : int
        Prompt tokens whose experts could not be known; they are in no row.
    layer_offset : int
        The first layer present, for a pipeline rank that sends only its own layers.
    num_layers : int, optional
        MoE layers of the whole model. By default the last row is the model's last layer.

    Raises
    ------
    ValueError
        The rows are inconsistent with each other or with the other attributes.
    """

    array: NDArray[np.integer]
    top_k: int
    num_tokens: int | None = None
    unknown_tokens: int = 0
    layer_offset: int = 0
    num_layers: int | None = None

    def __post_init__(self) -> None:
        array = self.array
        if array.ndim != 2 or 0 in array.shape or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(
                "counts: expected an integer array [layers, experts], "
                f"found {array.dtype} of shape {list(array.shape)}"
            )
        if array.min() < 0 or array.max() > _U32_MAX:
            raise ValueError(
                f"counts: expected 0 to {_U32_MAX}, found {array.min()} to {array.max()}"
            )
        if not 1 <= self.top_k <= array.shape[1]:
            raise ValueError(f"top_k: expected 1 to {array.shape[1]} experts, found {self.top_k}")
        sums = array.sum(axis=1, dtype=np.uint64)
        wanted = int(sums[0]) if self.num_tokens is None else self.num_tokens * self.top_k
        if wanted % self.top_k or (sums != wanted).any():
            raise ValueError(
                "counts: expected each row to sum to num_tokens x top_k "
                f"({self.num_tokens if self.num_tokens is not None else 'any'} x {self.top_k}), "
                f"found row sums of {sums.min()} to {sums.max()}"
            )

    def to_proto(self) -> ActivationCounts:
        """The contract's message, encoded dense or sparse, whichever is smaller."""
        rows, experts = self.array.shape
        message = ActivationCounts(
            num_layers=self.num_layers or self.layer_offset + rows,
            layer_offset=self.layer_offset,
            layers_present=rows,
            num_experts=experts,
            top_k=self.top_k,
            num_tokens=int(self.array[0].sum(dtype=np.uint64)) // self.top_k,
            unknown_tokens=self.unknown_tokens,
        )
        flat = self.array.reshape(-1)
        index = np.flatnonzero(flat)
        if index.size == 0:
            return message  # no tokens: the encoding stays unset
        count = flat[index]
        width = 2 if count.max() <= _U16_MAX else 4
        dense_size = flat.size * width
        # A pair takes at least two bytes, which usually settles it.
        if 2 * index.size < dense_size and _packed_size(index) + _packed_size(count) < dense_size:
            message.sparse.CopyFrom(SparseCounts(index=index.tolist(), count=count.tolist()))
        elif width == 2:
            message.dense_u16 = flat.astype("<u2").tobytes()
        else:
            message.dense_u32 = flat.astype("<u4").tobytes()
        return message

    @classmethod
    def from_proto(cls, message: ActivationCounts) -> Self:
        """Read a message.

        Raises
        ------
        ValueError
            Its parts are inconsistent.
        """
        shape = message.layers_present or message.num_layers, message.num_experts
        encoding = message.WhichOneof("encoding")
        if encoding == "dense_u16":
            flat = np.frombuffer(message.dense_u16, "<u2").astype(np.int64)
        elif encoding == "dense_u32":
            flat = np.frombuffer(message.dense_u32, "<u4").astype(np.int64)
        else:
            flat = np.zeros(shape, np.int64).reshape(-1)
            index, count = np.array(message.sparse.index, np.int64), message.sparse.count
            if len(index) != len(count) or index.max(initial=-1) >= flat.size:
                raise ValueError(f"sparse: expected pairs below {flat.size}, found {len(index)}")
            flat[index] = count
        if flat.size != shape[0] * shape[1]:
            raise ValueError(f"{encoding}: expected {shape} counts, found {flat.size}")
        return cls(
            flat.reshape(shape),
            message.top_k,
            message.num_tokens,
            message.unknown_tokens,
            message.layer_offset,
            message.num_layers,
        )


AnyCounts: TypeAlias = Counts | ActivationCounts | NDArray[np.integer]


def as_message(
    counts: AnyCounts | None, top_k: int | None = None, unknown_tokens: int = 0
) -> ActivationCounts | None:
    """Convert counts of any accepted form to the contract's message.

    `top_k` and `unknown_tokens` are for bare arrays only; other forms carry them.

    Raises
    ------
    ValueError
        A bare array without top_k, or inconsistent counts.
    """
    if isinstance(counts, np.ndarray):
        if top_k is None:
            raise ValueError(
                "counts: a bare array needs top_k, as a keyword of the call or of the client; "
                "or pass eldr_client.Counts(array, top_k)"
            )
        return Counts(counts, top_k, unknown_tokens=unknown_tokens).to_proto()
    if unknown_tokens:
        raise ValueError("unknown_tokens: expected only with a bare array; Counts has its own")
    if counts is None or isinstance(counts, ActivationCounts):
        return counts
    if isinstance(counts, Counts):
        return counts.to_proto()
    raise ValueError(
        "counts: expected an integer ndarray, eldr_client.Counts or ActivationCounts, "
        f"found {type(counts).__name__}"
    )


def _packed_size(values: NDArray[np.integer]) -> int:
    """Bytes of `values` as packed varints: one for every seven bits."""
    return values.size + sum(int((values >= 1 << bits).sum()) for bits in (7, 14, 21, 28))
