"""The frames of a recording's file, up to any truncation."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

FORMAT = "eldr-recording/1"
SUFFIX = ".eldr"
MOST_BYTES = 1 << 31  # of a frame: anything larger is not one

# Column -> (dtypes, shape of a row; None: any length).
COLUMNS: dict[str, tuple[str, tuple[int | None, ...]]] = {
    "prefills.request": ("u8", ()),
    "prefills.times": ("f8", (3,)),
    "prefills.tokens": ("u4", ()),
    "signatures.request": ("u8", ()),
    "signatures.unknown": ("u4", ()),
    "signatures.counts": ("u2 u4", (None, None)),
    "decodes.request": ("u8", ()),
    "decodes.sequence": ("u4", ()),
    "decodes.times": ("f8", (3,)),
    "decodes.tokens": ("u4", (3,)),
    "tokens.sequence": ("u4", ()),
    "tokens.experts": ("u1 i2", (None, None)),
    "steps.times": ("f8", (2,)),
    "steps.sizes": ("u4", (4,)),
}


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """About one second of an engine's work.

    Attributes
    ----------
    about : dict of str to str
        About the engine: model, engine, run, role, share, num_experts, top_k, dropped, written.
    columns : dict of TABLE.COLUMN to ndarray
        The columns of COLUMNS that have rows.
    """

    about: dict[str, str]
    columns: dict[str, NDArray[Any]]


def read_frames(path: Path) -> tuple[list[Frame], int]:
    """The complete frames of a file, and the number of bytes after them.

    A killed engine or a full disk leaves a truncated frame.

    Raises
    ------
    ValueError
        The file is of another version, or not a recording.
    """
    frames: list[Frame] = []
    whole = 0
    with path.open("rb") as file:
        while (document := _document(file)) is not None:
            try:
                columns = load(document)
            except SafetensorError:
                break
            header = int.from_bytes(document[:8], "little")
            about = json.loads(document[8 : 8 + header]).get("__metadata__", {})
            frames.append(_checked(path, Frame(about, columns)))
            whole = file.tell()
        return frames, os.fstat(file.fileno()).st_size - whole


def _document(file: BinaryIO) -> bytes | None:
    """The contents of the next frame; None if the file ends before it does."""
    size = int.from_bytes(file.read(8), "little")
    document = file.read(size) if 0 < size < MOST_BYTES else b""
    return document if document and len(document) == size else None


def _checked(path: Path, frame: Frame) -> Frame:
    found = frame.about.get("format")
    if found != FORMAT:
        raise ValueError(
            f"{path}: expected {FORMAT}, found {found}: an eldr-vllm of another version wrote it"
        )
    missing = {"model", "engine", "run", "role", "num_experts", "top_k"} - frame.about.keys()
    if missing:
        raise ValueError(f"{path}: a frame lacks its {', '.join(sorted(missing))}")
    rows: dict[str, int] = {}
    for name, (dtypes, shape) in COLUMNS.items():
        column = frame.columns.get(name)
        if column is None:
            if name.partition(".")[0] in rows:
                raise ValueError(f"{path}: a frame has no {name}")
            continue
        fits = len(column.shape) == 1 + len(shape) and all(
            wanted in (None, size) for wanted, size in zip(shape, column.shape[1:], strict=True)
        )
        if column.dtype.str[1:] not in dtypes.split() or not fits:
            raise ValueError(f"{path}: {name} is {column.dtype} {list(column.shape)}")
        if rows.setdefault(name.partition(".")[0], len(column)) != len(column):
            raise ValueError(f"{path}: the columns beside {name} have other lengths")
    return frame
