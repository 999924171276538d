"""Reads files of `torch.save` as NumPy arrays, without torch or executing their contents."""

import math
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_STORAGES = {"IntStorage": "<i4", "LongStorage": "<i8", "ShortStorage": "<i2", "ByteStorage": "u1"}
_BROKEN = (
    zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, KeyError, IndexError,
    AttributeError, TypeError, OverflowError, MemoryError, struct.error, pickle.UnpicklingError,
)  # fmt: skip


def is_torch_file(path: Path) -> bool:
    """Whether it begins as such files do; answers are text."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def load(path: Path) -> Any:
    """The saved value; integer tensors as arrays.

    Raises
    ------
    ValueError
        It is damaged, or has more than plain values and tensors of integers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            [name] = [n for n in archive.namelist() if n.endswith("/data.pkl")]
            folder = name.removesuffix("data.pkl")
            order = f"{folder}byteorder"
            if order in archive.namelist() and archive.read(order) != b"little":
                raise ValueError("its bytes are big-endian, expected little")
            with archive.open(name) as file:
                return _Unpickler(file, archive, folder).load()
    except (*_BROKEN, ValueError) as error:
        raise ValueError(f"{path}: not a complete file of torch.save: {error}") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"{module}.{name} does not belong in a recorder's dump")

    def persistent_load(self, pid: Any) -> NDArray[np.integer]:
        _, dtype, key, _, length = pid
        found: NDArray[np.integer] = np.frombuffer(
            self._archive.read(f"{self._folder}data/{key}"), dtype
        )
        if len(found) != length:
            raise ValueError(f"storage {key} has {len(found)} numbers, expected {length}")
        return found


def _tensor(
    storage: NDArray[np.integer], offset: int, size: Sequence[int], stride: Sequence[int], *_: Any
) -> NDArray[np.integer]:
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    inside = math.prod(size) <= len(storage) and (0 in size or last < len(storage))
    if min((offset, *size, *stride)) < 0 or not inside:
        raise ValueError(f"a tensor {list(size)} lies outside of its storage")
    steps = tuple(s * storage.itemsize for s in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], tuple(size), steps, writeable=False)
