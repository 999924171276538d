"""Compiles kernels on demand, for the types that they are declared with.

By default Numba would compile again for the first read-only array. A kernel is compiled at its
first call, which takes up to some seconds. Code that cannot wait then compiles it ahead of time,
possibly in a thread. The result is kept on disk (`kernels.cache`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from numba import njit, typeof, types

from eldr_service.kernels.cache import keep

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

_waiting: dict[Any, list[types.Type]] = {}  # kernels not compiled yet, and their types


def readonly(dtype: types.Type, ndim: int) -> types.Array:
    """A C-contiguous array type of `dtype` with `ndim` dimensions; accepts writable arrays too."""
    return types.Array(dtype, ndim, "C", readonly=True)


def part(**options: Any) -> Callable[[Kernel], Kernel]:
    """Decorate a function called only by kernels: it is compiled with them, and faster."""
    made: Callable[[Kernel], Kernel] = njit(
        no_cpython_wrapper=True, no_cfunc_wrapper=True, **options
    )
    return made


def kernel(signature: types.Type | list[types.Type], **options: Any) -> Callable[[Kernel], Kernel]:
    """Decorate a function to be compiled for `signature`; `options` as for `numba.njit`."""

    def declared(function: Kernel) -> Kernel:
        made: Any = njit(no_cfunc_wrapper=True, **options)(function)
        keep(made)
        _waiting[made] = signature if isinstance(signature, list) else [signature]
        made._compile_for_args = partial(_first_call, made)  # Numba's hook for uncompiled types
        return made  # type: ignore[no-any-return]

    return declared


def _first_call(made: Any, *arguments: Any) -> Any:
    """Compile, and return to Numba the function to call, like the method it replaces."""
    compile_ahead(made)
    given = [typeof(argument) for argument in arguments]
    converts = made.typingctx.can_convert
    for wanted, compiled in made.overloads.items():
        pairs = zip(given, wanted, strict=True)
        if len(given) == len(wanted) and all(converts(*pair) is not None for pair in pairs):
            return compiled.entry_point
    raise TypeError(f"{made.__name__} takes {list(made.overloads)}, found {given}")


def kept(function: Kernel) -> Kernel:
    """Decorate a function to be compiled for the types that it is called with, and kept on disk."""
    made = njit(function)
    keep(made)
    return made  # type: ignore[no-any-return]


def compile_ahead(*kernels: Callable[..., Any]) -> None:
    """Compile these kernels, or load them from disk; does nothing if that was done before."""
    for one in kernels:
        for signature in _waiting.get(one, ()):
            one.compile(signature)  # type: ignore[attr-defined]
        one.disable_compile()  # type: ignore[attr-defined]
        _waiting.pop(one, None)


def waiting() -> list[Callable[..., Any]]:
    """The imported kernels that are not compiled yet."""
    return list(_waiting)
