"""How kernels are compiled: for given types, when they are imported, and never again.

Left to itself, numba would compile again for the first array that is not to be written to. The
result is kept on disk, where there is a place for it.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit, types

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def readonly(dtype: types.Type, ndim: int) -> types.Array:
    """C-contiguous array of `dtype` with `ndim` dimensions; fits writable ones too."""
    return types.Array(dtype, ndim, "C", readonly=True)


def kernel(signature: types.Type, **options: Any) -> Callable[[Kernel], Kernel]:
    """Decorate a function to be compiled for `signature`; `options` as for `numba.njit`."""

    def compiled(function: Kernel) -> Kernel:
        try:
            return njit(signature, cache=True, **options)(function)  # type: ignore[no-any-return]
        except RuntimeError:  # a container with nothing to write to: no cache, but no failure
            return njit(signature, **options)(function)  # type: ignore[no-any-return]

    return compiled
