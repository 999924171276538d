"""Sums of the signatures in each cluster, updated by what has moved.

Sums are in float64, where adding and subtracting float32 entries of unit vectors leaves almost no
error. Each cluster is summed by one thread, in the order of the signatures.
"""

import numpy as np
from numba import float32, float64, int32, int64, types
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, readonly
from eldr_service.kernels.threads import over_rows

_LABELS = readonly(int32, 1)
_SUMS = types.Array(float64, 2, "C")


def move_dense(
    sums: NDArray[np.float64],
    signatures: NDArray[np.float32],
    before: NDArray[np.int32],
    after: NDArray[np.int32],
) -> None:
    """Add each row of `signatures` [n, D] to the sum given by `after` [n]; update `sums` [K, D].

    Rows are subtracted from the sum given by `before` [n]; -1 is none. Rows that do not move are
    skipped.
    """
    over_rows(
        lambda first, last: _dense(sums, signatures, before, after, first, last),
        len(sums),
        work=int(np.count_nonzero(before != after)) * signatures.shape[1],
    )


def move_sparse(
    sums: NDArray[np.float64],
    values: NDArray[np.float32],
    columns: NDArray[np.int32],
    starts: NDArray[np.int64],
    before: NDArray[np.int32],
    after: NDArray[np.int32],
) -> None:
    """Like `move_dense`, for sparse rows in the form of `sparse_similarities`."""
    over_rows(
        lambda first, last: _sparse(sums, values, columns, starts, before, after, first, last),
        len(sums),
        work=int(np.diff(starts)[before != after].sum()),
    )


@kernel(types.void(_SUMS, readonly(float32, 2), _LABELS, _LABELS, int64, int64), nogil=True)
def _dense(
    sums: NDArray[np.float64],
    signatures: NDArray[np.float32],
    before: NDArray[np.int32],
    after: NDArray[np.int32],
    first: int,
    last: int,
) -> None:
    for i in range(len(signatures)):
        if before[i] == after[i]:
            continue
        row = signatures[i]
        if first <= before[i] < last:
            old = sums[before[i]]
            for d in range(len(row)):
                old[d] -= row[d]
        if first <= after[i] < last:
            new = sums[after[i]]
            for d in range(len(row)):
                new[d] += row[d]


@kernel(
    types.void(
        _SUMS,
        readonly(float32, 1),
        readonly(int32, 1),
        readonly(int64, 1),
        _LABELS,
        _LABELS,
        int64,
        int64,
    ),
    nogil=True,
)
def _sparse(
    sums: NDArray[np.float64],
    values: NDArray[np.float32],
    columns: NDArray[np.int32],
    starts: NDArray[np.int64],
    before: NDArray[np.int32],
    after: NDArray[np.int32],
    first: int,
    last: int,
) -> None:
    for i in range(len(starts) - 1):
        if before[i] == after[i]:
            continue
        if first <= before[i] < last:
            for p in range(starts[i], starts[i + 1]):
                sums[before[i], columns[p]] -= values[p]
        if first <= after[i] < last:
            for p in range(starts[i], starts[i + 1]):
                sums[after[i], columns[p]] += values[p]
