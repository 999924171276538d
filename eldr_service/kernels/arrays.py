"""The array type that every kernel takes: C-contiguous, and read-only so that it fits both kinds.

Explicit types compile (or load from numba's cache) when a kernel is imported, and never again;
left to itself, numba would compile anew for the first array that is not to be written to.
"""

from numba import types


def readonly(dtype: types.Type, ndim: int) -> types.Array:
    """C-contiguous array of `dtype` with `ndim` dimensions, promised not to be written to."""
    return types.Array(dtype, ndim, "C", readonly=True)
