"""Sums of the signatures in each cluster, kept up to date by what has moved.

In float64, where adding and taking away float32 entries of unit vectors leaves next to no error.
Each cluster is summed by one thread, in the order of the signatures.
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
    """Add each row of `signatures` [n, D] to the sum `after` [n] says; update `sums` [K, D].

    Rows are taken from the sum that `before` [n] says; -1 is none, and without a move nothing is
    done.
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
    """As `move_dense`, for sparse rows as `sparse_similarities` takes them."""
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
