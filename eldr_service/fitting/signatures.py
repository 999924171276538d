"""Signatures of many requests, dense or sparse, in the form that clustering uses.

All sums are by kernels whose results are bitwise equal for any number of threads.
"""

from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from eldr_service.kernels.fitting.cluster_sums import move_dense, move_sparse
from eldr_service.kernels.fitting.signature_rows import nonzero_rows
from eldr_service.kernels.fitting.similarities import dense_similarities, sparse_similarities


class Signatures(Protocol):
    """n rows of D entries, of unit length or zero."""

    def __len__(self) -> int: ...

    def whole(self) -> NDArray[np.bool_]:
        """Which rows are not zero, shape [n]."""

    def take(self, requests: NDArray[np.int64]) -> Self:
        """These rows, in this order."""

    def rows(self, requests: NDArray[np.int64]) -> NDArray[np.float32]:
        """These rows, dense, shape [m, D]."""

    def similarities(self, centers: NDArray[np.float32]) -> NDArray[np.float32]:
        """Dot products with `centers` [m, D], shape [n, m]."""

    def move(
        self, sums: NDArray[np.float64], before: NDArray[np.int32], after: NDArray[np.int32]
    ) -> None:
        """Move rows in the sums [K, D], from those of labels `before` to those of `after`."""


@dataclass(frozen=True, slots=True, eq=False)
class DenseSignatures:
    """Rows [n, D] float32."""

    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.values)

    def whole(self) -> NDArray[np.bool_]:  # noqa: D102
        return nonzero_rows(self.values)

    def take(self, requests: NDArray[np.int64]) -> Self:  # noqa: D102
        return type(self)(self.values[requests])

    def rows(self, requests: NDArray[np.int64]) -> NDArray[np.float32]:  # noqa: D102
        return self.values[requests]

    def similarities(self, centers: NDArray[np.float32]) -> NDArray[np.float32]:  # noqa: D102
        return dense_similarities(self.values, centers)

    def move(  # noqa: D102
        self, sums: NDArray[np.float64], before: NDArray[np.int32], after: NDArray[np.int32]
    ) -> None:
        move_dense(sums, self.values, before, after)


@dataclass(frozen=True, slots=True, eq=False)
class SparseSignatures:
    """Sparse rows: row i has ``values[starts[i]:starts[i + 1]]`` in `columns`, zeros elsewhere."""

    values: NDArray[np.float32]
    columns: NDArray[np.int32]
    starts: NDArray[np.int64]
    size: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def whole(self) -> NDArray[np.bool_]:  # noqa: D102
        return row_sums(self.values, self.starts) > 0

    def take(self, requests: NDArray[np.int64]) -> Self:  # noqa: D102
        entries, starts = entries_of(self.starts, requests)
        return type(self)(self.values[entries], self.columns[entries], starts, self.size)

    def rows(self, requests: NDArray[np.int64]) -> NDArray[np.float32]:  # noqa: D102
        entries, starts = entries_of(self.starts, requests)
        dense = np.zeros((len(requests), self.size), np.float32)
        row = np.repeat(np.arange(len(requests)), np.diff(starts))
        dense[row, self.columns[entries]] = self.values[entries]
        return dense

    def similarities(self, centers: NDArray[np.float32]) -> NDArray[np.float32]:  # noqa: D102
        return sparse_similarities(self.values, self.columns, self.starts, centers)

    def move(  # noqa: D102
        self, sums: NDArray[np.float64], before: NDArray[np.int32], after: NDArray[np.int32]
    ) -> None:
        move_sparse(sums, self.values, self.columns, self.starts, before, after)


def entries_of(
    starts: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The entries of some sparse rows, end to end, and where each row starts among them."""
    lengths = starts[rows + 1] - starts[rows]
    ends = np.cumsum(lengths)
    shift = np.repeat(starts[rows] - (ends - lengths), lengths)
    return np.arange(len(shift)) + shift, np.concatenate([[0], ends])


def row_sums(entries: NDArray[Any], starts: NDArray[np.int64]) -> NDArray[Any]:
    """Sum of each sparse row's entries; booleans are counted."""
    dtype = np.int64 if entries.dtype == np.bool_ else entries.dtype
    sums = np.zeros(len(starts) - 1, dtype)
    used = np.flatnonzero(np.diff(starts))
    if len(used):
        sums[used] = np.add.reduceat(entries, starts[used], dtype=dtype)
    return sums
