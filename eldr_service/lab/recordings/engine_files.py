"""Loads a folder of recordings, of any number of engines, as columns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eldr_service.lab.recordings.frames import COLUMNS, SUFFIX, Frame, read_frames


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EngineFiles:
    """The recordings of one model's engines, each table concatenated.

    Attributes
    ----------
    folder : Path
    model : str
    num_experts, top_k : int
        Of the model.
    columns : dict of TABLE.COLUMN to ndarray
        All of `COLUMNS`, including empty ones; ``sequence`` is made unique over all engines:
        uint64.
    decode_engines : int
        Number of engines that recorded decodes.
    cautions : tuple of str
        What is lost: truncated ends, rows that an engine dropped.
    """

    folder: Path
    model: str
    num_experts: int
    top_k: int
    columns: dict[str, NDArray[Any]]
    decode_engines: int
    cautions: tuple[str, ...]

    @property
    def num_layers(self) -> int:
        """MoE layers; ValueError if no experts were recorded."""
        for column in ("tokens.experts", "signatures.counts"):
            if self[column].shape[1]:
                return int(self[column].shape[1])
        raise ValueError(f"{self.folder}: no experts were recorded")

    def __getitem__(self, column: str) -> NDArray[Any]:
        return self.columns[column]


@cache
def read_engine_files(folder: Path) -> EngineFiles:
    """Read a folder with its subfolders, once per process.

    Raises
    ------
    ValueError
        There is no recording, a file is of another version, or the engines served different models.
    """
    paths = sorted(folder.rglob(f"*{SUFFIX}"))
    cautions, frames = [], []
    for path in paths:
        try:
            whole, torn = read_frames(path)
        except FileNotFoundError:  # its engine makes room for a newer one
            cautions.append(f"{path}: was deleted meanwhile and is left out")
            continue
        frames += whole
        if torn:
            cautions.append(f"{path}: its last {torn:,} bytes are truncated and left out")
    if not frames:
        raise ValueError(
            f"{folder}: no recordings; engines write *{SUFFIX} with the setting record"
        )
    kinds = {(f.about["model"], f.about["num_experts"], f.about["top_k"]) for f in frames}
    if len(kinds) > 1:
        said = "; ".join(
            f"{name}: {experts} experts, top-{k}" for name, experts, k in sorted(kinds)
        )
        raise ValueError(f"{folder}: has recordings of several models ({said}); keep them apart")
    cautions += _dropped(frames)
    ((model, num_experts, top_k),) = kinds
    engines = {f.about["engine"] for f in frames if "decodes.request" in f.columns}
    try:
        columns = {name: _joined(frames, name) for name in COLUMNS}
    except ValueError as error:  # different numbers of layers
        raise ValueError(f"{folder}: the recordings differ in shape: {error}") from error
    return EngineFiles(
        folder=folder,
        model=model,
        num_experts=int(num_experts),
        top_k=int(top_k),
        columns=columns,
        decode_engines=len(engines),
        cautions=tuple(cautions),
    )


def _dropped(frames: Sequence[Frame]) -> Iterator[str]:
    dropped: dict[tuple[str, str], int] = {}
    for frame in frames:
        run = frame.about["engine"], frame.about["run"]
        dropped[run] = max(dropped.get(run, 0), int(frame.about.get("dropped", 0)))
    for (engine, _), rows in dropped.items():
        if rows:
            yield f"{engine} dropped {rows:,} rows: its disk was too slow"


def _joined(frames: Sequence[Frame], name: str) -> NDArray[Any]:
    dtypes, shape = COLUMNS[name]
    parts = [frame.columns[name] for frame in frames if name in frame.columns]
    if name.endswith(".sequence"):
        runs = {run: number for number, run in enumerate(sorted({f.about["run"] for f in frames}))}
        numbers = [runs[frame.about["run"]] for frame in frames if name in frame.columns]
        parts = [
            part.astype(np.uint64) + np.uint64(number << 32)
            for part, number in zip(parts, numbers, strict=True)
        ]
    if not parts:
        return np.empty((0, *(size or 0 for size in shape)), dtypes.split()[-1])
    return np.concatenate(parts)
