"""Activation counts of many requests, checked: a dense array, or a SciPy sparse matrix."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.signature import SignatureTransform
from eldr_service.fitting.signatures import (
    DenseSignatures,
    Signatures,
    SparseSignatures,
    entries_of,
    row_sums,
)
from eldr_service.kernels.fitting.signature_rows import dense_signatures, sparse_signatures
from eldr_service.kernels.fitting.sparse_rows import first_malformed_row

_CHUNK = 1 << 24  # entries checked together, so that not all are copied


class Counts(Protocol):
    """Counts of n requests on a model."""

    def __len__(self) -> int: ...

    @property
    def geometry(self) -> ModelGeometry:
        """The model's."""

    def used_by(self) -> NDArray[np.int64]:
        """How many requests used each expert at all, shape [L, E]."""

    def signatures(self, transform: SignatureTransform) -> Signatures:
        """Signatures of every request."""

    def dense(self, requests: NDArray[np.int64]) -> NDArray[np.integer]:
        """Counts of these requests, shape [m, L, E]."""


def checked_counts(
    counts: ArrayLike | Any, geometry: ModelGeometry | None, name: str = "counts"
) -> Counts:
    """Check counts [n, L, E], or sparse [n, L x E].

    Parameters
    ----------
    counts : array_like of int, or a matrix of scipy.sparse
        Sparse in any format that has ``tocsr``; CSR is not copied if its types fit.
    geometry : ModelGeometry, optional
        The geometry of the counts, required for sparse ones. By default the shape's, with top_k 1.
    name : str
        For messages.

    Raises
    ------
    ValueError
        Says what is malformed.
    """
    if hasattr(counts, "tocsr"):
        return _checked_sparse(counts.tocsr(), geometry, name)
    array = np.asarray(counts)
    if array.ndim != 3 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name} must be integers of shape [n, L, E], got {array.dtype} {list(array.shape)}"
        )
    _check_range(array, name)
    geometry = geometry or ModelGeometry(array.shape[1], array.shape[2], top_k=1)
    if array.shape[1:] != (geometry.num_layers, geometry.num_experts):
        raise ValueError(f"{name} of shape {list(array.shape)} are not of {geometry}")
    return _DenseCounts(geometry, array)


@dataclass(frozen=True, slots=True, eq=False)
class _DenseCounts:
    geometry: ModelGeometry
    counts: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.counts)

    def used_by(self) -> NDArray[np.int64]:
        used: NDArray[np.int64] = np.count_nonzero(self.counts, axis=0)
        return used

    def signatures(self, transform: SignatureTransform) -> DenseSignatures:
        assert transform.layers is not None
        return DenseSignatures(
            dense_signatures(
                self.counts, transform.layers, transform.weights, transform.name == "sqrt"
            )
        )

    def dense(self, requests: NDArray[np.int64]) -> NDArray[np.integer]:
        return self.counts[requests]


@dataclass(frozen=True, slots=True, eq=False)
class _SparseCounts:
    """Row i has ``counts[starts[i]:starts[i + 1]]`` in `columns`, layer x E + expert."""

    geometry: ModelGeometry
    counts: NDArray[np.uint32]
    columns: NDArray[np.int32]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def used_by(self) -> NDArray[np.int64]:
        g = self.geometry
        used = np.zeros(g.size, np.int64)
        for at in range(0, len(self.columns), _CHUNK):
            part = slice(at, at + _CHUNK)
            used += np.bincount(self.columns[part][self.counts[part] > 0], minlength=g.size)
        return used.reshape(g.num_layers, g.num_experts)

    def signatures(self, transform: SignatureTransform) -> SparseSignatures:
        g, layers = self.geometry, transform.layers
        assert layers is not None
        factors = np.zeros((g.num_layers, g.num_experts))
        factors[layers] = transform.weights
        values = sparse_signatures(
            self.counts, self.columns, self.starts, factors.ravel(), transform.name == "sqrt"
        )
        if len(layers) == g.num_layers:
            return SparseSignatures(values, self.columns, self.starts, g.size)
        kept = values != 0
        starts = np.concatenate([[0], np.cumsum(row_sums(kept, self.starts))])
        place = np.zeros((g.num_layers, g.num_experts), np.int32)
        place[layers] = np.arange(transform.size).reshape(-1, g.num_experts)
        columns = place.ravel()[self.columns[kept]]
        return SparseSignatures(values[kept], columns, starts, transform.size)

    def dense(self, requests: NDArray[np.int64]) -> NDArray[np.integer]:
        g = self.geometry
        entries, starts = entries_of(self.starts, requests)
        dense = np.zeros((len(requests), g.size), np.uint32)
        row = np.repeat(np.arange(len(requests)), np.diff(starts))
        dense[row, self.columns[entries]] = self.counts[entries]
        return dense.reshape(-1, g.num_layers, g.num_experts)


def _checked_sparse(matrix: Any, geometry: ModelGeometry | None, name: str) -> _SparseCounts:
    if geometry is None:
        raise ValueError(f"{name} are sparse: give the geometry, which their shape does not tell")
    if not np.issubdtype(matrix.dtype, np.integer) or matrix.shape[1] != geometry.size:
        raise ValueError(
            f"{name} must be integers of shape [n, {geometry.size}], as they are sparse and of"
            f" {geometry}, got {matrix.dtype} {list(matrix.shape)}"
        )
    _check_range(matrix.data, name)
    columns = np.ascontiguousarray(matrix.indices, np.int32)
    starts = np.ascontiguousarray(matrix.indptr, np.int64)
    malformed = first_malformed_row(columns, starts, geometry.size)
    if malformed >= 0:
        raise ValueError(
            f"{name} must have each row's columns once, ascending, below {geometry.size};"
            f" row {malformed} does not: sum_duplicates() may fix it"
        )
    return _SparseCounts(geometry, np.ascontiguousarray(matrix.data, np.uint32), columns, starts)


def _check_range(counts: NDArray[np.integer], name: str) -> None:
    if np.issubdtype(counts.dtype, np.signedinteger) and counts.size and counts.min() < 0:
        raise ValueError(f"{name} must not be negative, got {counts.min()}")
    if counts.dtype.itemsize > 4 and counts.size and counts.max() >= 2**32:
        raise ValueError(f"{name} must be below 2^32, got {counts.max()}")
