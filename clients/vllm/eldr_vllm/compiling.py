"""Compiles kernels for given types at import, and caches them on disk where possible.

A read-only directory, a full disk or damaged files cost only the time to compile.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit, types

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def readonly(dtype: types.Type, ndim: int) -> types.Array:
    """A C-contiguous array type of `dtype` with `ndim` dimensions; accepts writable arrays too."""
    return types.Array(dtype, ndim, "C", readonly=True)


def kernel(*signatures: types.Type) -> Callable[[Kernel], Kernel]:
    """Decorate a function to be compiled for each of `signatures`; it runs without the GIL."""

    def compiled(function: Kernel) -> Kernel:
        try:
            return njit(list(signatures), nogil=True, cache=True)(function)  # type: ignore[no-any-return]
        except Exception:  # noqa: BLE001 - what a damaged file may raise, too; ours is raised below
            return njit(list(signatures), nogil=True)(function)  # type: ignore[no-any-return]

    return compiled
