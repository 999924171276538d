"""How kernels are compiled: for given types, when they are imported, kept on disk where possible.

A directory that cannot be written, a full disk and damaged files cost the compiling and no more.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit, types

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def readonly(dtype: types.Type, ndim: int) -> types.Array:
    """C-contiguous array of `dtype` with `ndim` dimensions; fits writable ones too."""
    return types.Array(dtype, ndim, "C", readonly=True)


def kernel(*signatures: types.Type) -> Callable[[Kernel], Kernel]:
    """Decorate a function to be compiled for each of `signatures`; it runs without the GIL."""

    def compiled(function: Kernel) -> Kernel:
        try:
            return njit(list(signatures), nogil=True, cache=True)(function)  # type: ignore[no-any-return]
        except Exception:  # noqa: BLE001 - what a damaged file may raise, too; ours is raised below
            return njit(list(signatures), nogil=True)(function)  # type: ignore[no-any-return]

    return compiled
