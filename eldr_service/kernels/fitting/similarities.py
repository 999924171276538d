"""Cosines of many signatures with many centers, bitwise equal for any number of threads.

BLAS does not promise that. Entries are summed in float32 within a stretch, and stretches in
float64: ten times as accurate as float32 throughout, and as fast.
"""

import numpy as np
from numba import float32, int32, int64, types
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kernel, part, readonly
from eldr_service.kernels.threads import over_rows

_ROWS = 48  # summed together while a stretch of the centers is in the cache
_STRETCH = 1_024  # entries
_SPARSE_STRETCH = 256  # nonzero entries, summed one after the other
_LANES = 16  # float32 entries in the widest vector register


def dense_similarities(
    signatures: NDArray[np.float32], centers: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Dot products [n, m] of the rows of `signatures` [n, D] and of `centers` [m, D]."""
    result = np.empty((len(signatures), len(centers)), np.float32)
    over_rows(
        lambda first, last: _dense(signatures, centers, first, last, result),
        len(signatures),
        work=signatures.size * len(centers),
        align=_ROWS,
    )
    return result


def sparse_similarities(
    values: NDArray[np.float32],
    columns: NDArray[np.int32],
    starts: NDArray[np.int64],
    centers: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Dot products [n, m] of sparse rows and of `centers` [m, D].

    Row i has ``values[starts[i]:starts[i + 1]]`` in `columns`, each below D, and zeros elsewhere.
    """
    m, size = centers.shape
    across = np.zeros((size, -(-m // _LANES) * _LANES), np.float32)
    across[:, :m] = centers.T
    result = np.empty((len(starts) - 1, m), np.float32)
    over_rows(
        lambda first, last: _sparse(values, columns, starts, across, first, last, result),
        len(result),
        work=len(values) * m,
    )
    return result


# Reordering allows vector registers. Four rows with four centers at once: eight loads keep sixteen
# multiplications busy.
@part(fastmath={"reassoc", "contract", "nsz"})
def _dots(
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    z: NDArray[np.float32],
    w: NDArray[np.float32],
    centers: tuple[NDArray[np.float32], ...],
) -> tuple[np.float32, ...]:
    a, b, c, d = centers
    xa = xb = xc = xd = ya = yb = yc = yd = np.float32(0)
    za = zb = zc = zd = wa = wb = wc = wd = np.float32(0)
    for i in range(len(x)):
        xa += x[i] * a[i]
        xb += x[i] * b[i]
        xc += x[i] * c[i]
        xd += x[i] * d[i]
        ya += y[i] * a[i]
        yb += y[i] * b[i]
        yc += y[i] * c[i]
        yd += y[i] * d[i]
        za += z[i] * a[i]
        zb += z[i] * b[i]
        zc += z[i] * c[i]
        zd += z[i] * d[i]
        wa += w[i] * a[i]
        wb += w[i] * b[i]
        wc += w[i] * c[i]
        wd += w[i] * d[i]
    return xa, xb, xc, xd, ya, yb, yc, yd, za, zb, zc, zd, wa, wb, wc, wd


@kernel(
    types.void(
        readonly(float32, 2), readonly(float32, 2), int64, int64, types.Array(float32, 2, "C")
    ),
    nogil=True,
)
def _dense(
    signatures: NDArray[np.float32],
    centers: NDArray[np.float32],
    first: int,
    last: int,
    result: NDArray[np.float32],
) -> None:
    size = signatures.shape[1]
    m = len(centers)
    sums = np.empty((_ROWS, m))
    for top in range(first, last, _ROWS):
        bottom = min(top + _ROWS, last)
        sums[:] = 0.0
        for left in range(0, size, _STRETCH):
            right = min(left + _STRETCH, size)
            for k in range(0, m, 4):
                # If fewer than four are left, the last is repeated.
                four = (
                    centers[k, left:right],
                    centers[min(k + 1, m - 1), left:right],
                    centers[min(k + 2, m - 1), left:right],
                    centers[min(k + 3, m - 1), left:right],
                )
                for i in range(top, bottom, 4):
                    dots = _dots(
                        signatures[i, left:right],
                        signatures[min(i + 1, bottom - 1), left:right],
                        signatures[min(i + 2, bottom - 1), left:right],
                        signatures[min(i + 3, bottom - 1), left:right],
                        four,
                    )
                    for row in range(min(4, bottom - i)):
                        for q in range(min(4, m - k)):
                            sums[i - top + row, k + q] += dots[4 * row + q]
        result[top:bottom] = sums[: bottom - top]


# Four entries at once, so that sums are loaded and stored a quarter as often.
@kernel(
    types.void(
        readonly(float32, 1),
        readonly(int32, 1),
        readonly(int64, 1),
        readonly(float32, 2),
        int64,
        int64,
        types.Array(float32, 2, "C"),
    ),
    nogil=True,
    fastmath={"contract"},
)
def _sparse(
    values: NDArray[np.float32],
    columns: NDArray[np.int32],
    starts: NDArray[np.int64],
    across: NDArray[np.float32],
    first: int,
    last: int,
    result: NDArray[np.float32],
) -> None:
    m = result.shape[1]
    width = across.shape[1]
    sums = np.empty(width)
    part = np.empty(width, np.float32)
    for i in range(first, last):
        sums[:] = 0.0
        for left in range(starts[i], starts[i + 1], _SPARSE_STRETCH):
            right = min(left + _SPARSE_STRETCH, starts[i + 1])
            fours = left + (right - left) // 4 * 4
            part[:] = 0.0
            for p in range(left, fours, 4):
                a, b, c, d = values[p], values[p + 1], values[p + 2], values[p + 3]
                row_a, row_b = across[columns[p]], across[columns[p + 1]]
                row_c, row_d = across[columns[p + 2]], across[columns[p + 3]]
                for k in range(width):
                    part[k] += (a * row_a[k] + b * row_b[k]) + (c * row_c[k] + d * row_d[k])
            for p in range(fours, right):
                row = across[columns[p]]
                for k in range(width):
                    part[k] += values[p] * row[k]
            sums += part
        for k in range(m):
            result[i, k] = sums[k]
