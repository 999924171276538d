"""Reads a decision log: one file, or a folder of files in order."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard
from eldr.v1.decision_log_pb2 import LogHeader, LogRecord
from google.protobuf.message import DecodeError
from google.protobuf.proto import parse_length_prefixed

from eldr_service.decision_log.to_records import FORMAT
from eldr_service.decision_log.writer import PATTERN, sizes

_CHUNK = 1 << 20
_SLICE = 1 << 10
"""Bytes decompressed at once: zstandard expands them at most 32 thousand times."""
_MOST_FRAME = 256 << 20


class LogError(ValueError):
    """Something is not a decision log, or cannot be read here; says which and why."""


class _TornError(Exception):
    """A file ends within a frame, or the frame is damaged, or larger than any that is written."""


class LogReader:
    """Iterates over the records of a log; includes a snapshot only where one is needed.

    That is at the first file and after a gap: a header comes, then the snapshot, and everything
    earlier is void. If a file continues the previous one, neither comes.

    Parameters
    ----------
    path : Path
        A file, or a folder of files, which may be from several runs of the daemon.

    Attributes
    ----------
    files : list of Path
        In reading order.
    total_bytes, bytes_read : int
        Size of the files, and bytes read so far.
    on_read : callable ()
        Called after each read.
    notes : list of str
        What was missing so far, and in which files.

    Raises
    ------
    LogError
        There is no log; or, while iterating, a file is not one.
    """

    def __init__(self, path: Path) -> None:
        self.files = sorted(path.glob(PATTERN)) if path.is_dir() else [path]
        if not self.files:
            raise LogError(f"{path}: no decision log in this folder ({PATTERN})")
        self.total_bytes, self.bytes_read = sum(sizes(self.files).values()), 0
        self.on_read: Callable[[], None] = lambda: None
        self.notes: list[str] = []
        self._last: LogHeader | None = None  # None if nothing can be continued

    def __iter__(self) -> Iterator[LogRecord]:
        for path in self.files:
            try:
                with path.open("rb") as file:
                    yield from self._needed(path, file)
            except FileNotFoundError:
                self._note(f"{path.name} was deleted meanwhile")
                self._last = None

    def _needed(self, path: Path, file: BinaryIO) -> Iterator[LogRecord]:
        known = False  # the snapshot is
        try:
            for place, record in enumerate(self._records(file)):
                if place == 0:
                    known = self._continues(path, record)
                if not known:
                    yield record
                elif record.HasField("snapshot_end"):
                    known = False
        except (_TornError, zstandard.ZstdError, DecodeError) as error:
            if len(self.files) == 1:
                self._refuse_others(path, error)
            self._note(f"{path.name} is truncated or damaged, and was read as far as it is intact")
            self._last = None

    def _refuse_others(self, path: Path, error: Exception) -> None:
        """Distinguish a file of another kind from an incomplete log."""
        with path.open("rb") as file:
            if file.read(4) != zstandard.FRAME_HEADER:
                raise LogError(f"{path}: no decision log (nor zstandard at all)") from error

    def _continues(self, path: Path, record: LogRecord) -> bool:
        """Whether a file continues the previous one; adds a note if it should but does not."""
        header, last = record.header, self._last
        if not record.HasField("header"):
            raise LogError(f"{path}: no decision log: it does not begin with a header")
        if header.format > FORMAT:
            raise LogError(
                f"{path}: format {header.format}, by eldr-server {header.version};"
                f" this eldr reads up to {FORMAT}"
            )
        self._last = header
        if header.lost:
            self._note(f"{header.lost:,} events before {path.name} were lost")
        if last is None or last.run != header.run:
            return False
        if missing := header.file - last.file - 1:
            self._note(f"{missing} of the files before {path.name} are missing")
        return not (header.lost or missing)

    def _records(self, file: BinaryIO) -> Iterator[LogRecord]:
        for frame in self._frames(file):
            unpacked = io.BytesIO(frame)
            while record := parse_length_prefixed(LogRecord, unpacked):
                yield record

    def _frames(self, file: BinaryIO) -> Iterator[bytes]:
        rest = b""
        while rest := rest or self._read(file):
            unpacker = zstandard.ZstdDecompressor().decompressobj()
            frame = bytearray()
            while not unpacker.eof:
                if not (rest := rest or self._read(file)):
                    raise _TornError
                frame += unpacker.decompress(rest[:_SLICE])
                rest = rest[_SLICE:]
                if len(frame) > _MOST_FRAME:
                    raise _TornError
            rest = unpacker.unused_data + rest
            yield bytes(frame)

    def _read(self, file: BinaryIO) -> bytes:
        chunk = file.read(_CHUNK)
        self.bytes_read += len(chunk)
        self.on_read()
        return chunk

    def _note(self, text: str) -> None:
        self.notes.append(text)
