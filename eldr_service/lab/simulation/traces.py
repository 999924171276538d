"""Arrivals and lengths of real services: published traces and engines' recordings."""

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from eldr_service.lab.recordings import join, read_engine_files

Row = tuple[float, int, int]
MOST_BYTES = 1 << 30  # unpacked


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A service's requests. Public traces do not say which experts they used.

    Attributes
    ----------
    times_s : ndarray of float64, shape [n]
        Ascending from 0.
    prompt_tokens, output_tokens : ndarray of int64, shape [n]
        At least 1.
    decode_engines : int or None
        Number of decode engines that served them, if recorded.
    """

    times_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    decode_engines: int | None = None

    @property
    def rate_per_s(self) -> float:
        """Mean arrivals per second."""
        return (len(self.times_s) - 1) / float(self.times_s[-1])

    @classmethod
    def load(cls, path: str | Path) -> "Trace":
        """Read a trace.

        By its name, a file is Azure's (.csv: TIMESTAMP, ContextTokens, GeneratedTokens) or
        Mooncake's (.jsonl or .jsonl.zst: timestamp in ms, input_length, output_length). A folder
        holds engines' recordings (docs/recording.md).

        Raises
        ------
        ValueError
            The trace is invalid; the message says why.
        """
        name = Path(path).name
        if Path(path).is_dir():
            return cls._recorded(Path(path))
        try:
            if name.endswith(".csv"):
                rows = _rows(csv.DictReader(_text(path).splitlines()), _azure)
            elif name.endswith((".jsonl", ".jsonl.zst")):
                rows = _rows(map(json.loads, _text(path).splitlines()), _mooncake)
            else:
                raise ValueError("expected .csv (Azure), .jsonl or .jsonl.zst (Mooncake)")
            return cls._of(rows)
        except ValueError as error:  # includes JSONDecodeError and UnicodeDecodeError
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def _recorded(cls, folder: Path) -> "Trace":
        files = read_engine_files(folder)
        joined = join(files)
        columns = joined.arrival_s, joined.prompt_tokens, joined.output_tokens
        try:
            trace = cls._of(list(zip(*(column.tolist() for column in columns), strict=True)))
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error
        return replace(trace, decode_engines=files.decode_engines)

    @classmethod
    def _of(cls, rows: Sequence[Row]) -> "Trace":
        rows = sorted(rows)
        if len(rows) < 2 or rows[0][0] == rows[-1][0]:
            raise ValueError(f"expected requests at two or more times, found {len(rows)} requests")
        times, prompts, outputs = (np.array(column) for column in zip(*rows, strict=True))
        if min(prompts.min(), outputs.min()) < 0:
            raise ValueError("lengths must not be negative")
        return cls(times - times[0], np.maximum(prompts, 1), np.maximum(outputs, 1))


def _rows(records: Iterable[dict[str, Any]], row_of: Callable[[dict[str, Any]], Row]) -> list[Row]:
    rows = []
    for number, record in enumerate(records, start=1):
        try:
            rows.append(row_of(record))
        except (KeyError, TypeError, ValueError) as error:
            what = f"missing {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"request {number}: {what}") from error
    return rows


def _azure(record: dict[str, Any]) -> Row:
    seconds, _, fraction = record["TIMESTAMP"].partition(".")
    time = datetime.fromisoformat(f"{seconds}+00:00").timestamp() + float(f"0.{fraction or 0}")
    return time, int(record["ContextTokens"]), int(record["GeneratedTokens"])


def _mooncake(record: dict[str, Any]) -> Row:
    return record["timestamp"] / 1e3, int(record["input_length"]), int(record["output_length"])


def _text(path: str | Path) -> str:
    data = Path(path).read_bytes()
    if Path(path).suffix == ".zst":
        try:
            data = zstandard.ZstdDecompressor().stream_reader(data).read(MOST_BYTES + 1)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
        if len(data) > MOST_BYTES:
            raise ValueError(f"unpacks to more than {MOST_BYTES >> 20:,} MiB; use a part of it")
    return data.decode("utf-8")
