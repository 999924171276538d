"""Compiled kernels on disk: Numba's cache, but no file or disk error can prevent a start.

What cannot be read is compiled and written again; what cannot be written is skipped. A directory
that was filled beforehand need not be writable. An entry is valid as long as the sources of all
kernels are unchanged, whatever their dates, since a kernel includes functions of other files.
"""

import contextlib
import functools
import hashlib
import inspect
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llvmlite.binding import get_host_cpu_name
from numba import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, NullCache

_ROOT = Path(__file__).parent
_DIGEST = hashlib.sha256().digest_size
_WHAT_TO_DO = (
    "set NUMBA_CACHE_DIR to a writable directory, or to one that `eldr warm-up` has filled"
)
_PROVIDED = ("UserProvided", "_UserProvided")  # the class of NUMBA_CACHE_DIR, by Numba's version
_troubles: dict[str, str] = {}


def target() -> str:
    """The processor that kernels are compiled for, by LLVM's name."""
    return str(config.CPU_NAME or get_host_cpu_name())


def cache_troubles() -> list[str]:
    """Why kernels could not be read or written: one sentence per kind, each returned once."""
    told = [text for text in _troubles.values() if text]
    _troubles.update(dict.fromkeys(_troubles, ""))
    return told


def kept_in(dispatcher: Any) -> str | None:
    """The directory where a kernel is kept, or would be; None if there is none."""
    path: str | None = dispatcher.stats.cache_path
    return path


def keep(dispatcher: Any) -> None:
    """Keep what `dispatcher` compiles on disk, if there is a place for it."""
    try:
        dispatcher._cache = KernelCache(dispatcher.py_func)
    except RuntimeError:  # a container without a writable directory
        dispatcher._cache = _Nowhere()
        return
    wanted, found = config.CACHE_DIR, dispatcher._cache.cache_path
    if wanted and not Path(wanted).is_dir():
        _troubles.setdefault(
            "elsewhere",
            f"NUMBA_CACHE_DIR={wanted} is not a writable directory; compiled kernels are kept"
            f" beside their sources or in the user's cache instead, in {found}",
        )


class _Nowhere(NullCache):
    def save_overload(self, sig: Any, cres: Any) -> None:
        _troubles.setdefault(
            "nowhere",
            "no directory for compiled kernels is writable, so that each start compiles them:"
            f" {_WHAT_TO_DO}",
        )


@functools.cache
def _sources(file: Path) -> str:
    """A hash of all kernels' sources, or of those beside a file that lies elsewhere."""
    folder = _ROOT if file.is_relative_to(_ROOT) else file.parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _or_filled(place: Any) -> type:
    """A subclass of this cache locator that also accepts a filled, read-only directory."""

    class Place(place):
        @classmethod
        def from_function(cls, function: Callable[..., Any], file: str) -> Any:
            found = super().from_function(function, file)
            if found is None and (config.CACHE_DIR or not place.__name__.startswith(_PROVIDED)):
                there = cls(function, file)
                folder = Path(there.get_cache_path())
                with contextlib.suppress(OSError):
                    if any(folder.glob(f"{Path(file).stem}.{function.__qualname__}-*.nbi")):
                        return there
            return found

    return Place


class _Places(CompileResultCacheImpl):
    _locator_classes = [  # noqa: RUF012 - Numba's own
        *map(_or_filled, CompileResultCacheImpl._locator_classes[:3]),
        *CompileResultCacheImpl._locator_classes[3:],
    ]


class _CheckedFiles(IndexDataCacheFile):
    """Verifies machine code before loading it: a flipped bit would crash the process."""

    def _save_data(self, name: str, data: object) -> None:
        content = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(hashlib.sha256(content).digest() + content)

    def _load_data(self, name: str) -> Any:
        path = Path(self._data_path(name))
        content = path.read_bytes()
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
            raise ValueError(f"{path.name} is damaged")
        return pickle.loads(content[_DIGEST:])


class KernelCache(FunctionCache):
    """The cache of one kernel; its failures are reported only by `cache_troubles`."""

    _impl_class = _Places

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        sources = _sources(Path(inspect.getfile(function)))
        self._cache_file = _CheckedFiles(self._cache_path, self._impl.filename_base, sources)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load what was compiled for the types `sig`; None if it must be compiled."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # noqa: BLE001 - what unpickling of a damaged file may raise
            _troubles.setdefault(
                "unreadable",
                f"a compiled kernel in {self.cache_path} could not be read, so it is compiled and"
                f" written again ({_words(error)})",
            )
        with contextlib.suppress(OSError):  # reported when the kernel is written
            self.flush()
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write what was compiled for the types `sig`, if possible."""
        try:
            super().save_overload(sig, data)
        except Exception as error:  # noqa: BLE001 - it is in memory, which is all that matters now
            _troubles.setdefault(
                "unwritable",
                f"compiled kernels cannot be written to {self.cache_path} ({_words(error)}), so"
                f" that each start compiles them: {_WHAT_TO_DO}",
            )


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return f"{type(error).__name__}: {error}"
