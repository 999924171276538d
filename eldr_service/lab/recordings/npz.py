"""Arrays of an `.npz` file, whose headers are checked before anything is read."""

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

# RuntimeError: encrypted, or packed in a way that zipfile cannot read.
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)


def read_arrays(path: str | Path) -> dict[str, NDArray[Any]]:
    """Read every array of a file, by name. Nothing is unpickled.

    Raises
    ------
    OSError
    ValueError
        The file is not an `.npz` of plain arrays, or is damaged; an array's shape does not match
        its data; or all together take more than a quarter of this machine's memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
            _check_size(sum(member.file_size for member in members))
            return {m.filename.removesuffix(".npy"): _array(archive, m) for m in members}
    except (*_UNREADABLE, ValueError) as error:
        raise ValueError(f"not a complete .npz file of plain arrays: {error}") from error


def _check_size(nbytes: int) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if nbytes > memory // 4:
        raise ValueError(
            f"unpacks to {nbytes / 1e9:,.1f} GB, more than a quarter of this machine's memory of"
            f" {memory / 1e9:,.1f} GB; give a part of it"
        )


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    name = member.filename.removesuffix(".npy")
    with archive.open(member) as file:
        version = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(file)
        if dtype.hasobject:
            raise ValueError(f"array {name} holds Python objects; expected plain numbers or text")
        expected = dtype.itemsize * int(np.prod(shape, dtype=object))
        if expected != (found := member.file_size - file.tell()):
            raise ValueError(
                f"array {name} says it is {list(shape)} of {dtype}, which are {expected:,} bytes;"
                f" the file has {found:,}"
            )
    with archive.open(member) as file:
        array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
        return array
