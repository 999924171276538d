"""The files of a recording: appended to, oldest deleted first to stay within a bound."""

import contextlib
import re
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

PARTS = 16  # files that share an engine's bound, and so the part deleted at once


class RecordingFiles:
    """One engine's files. Those left by earlier runs count towards its bound.

    Parameters
    ----------
    folder : Path
        Created if missing.
    engine : str
        The engine's name; engines that share a folder need different ones.
    most_bytes : int
        Total size of its files.

    Attributes
    ----------
    run : str
        Identifies one life of the engine.

    Raises
    ------
    OSError
        From every method, if the folder cannot be created or written to.
    """

    def __init__(self, folder: Path, engine: str, most_bytes: int) -> None:
        self._folder, self._most = folder, most_bytes
        self._prefix = re.sub(r"[^A-Za-z0-9_-]+", "_", engine)
        self.run = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}"
        self._number = 0
        self._file: BinaryIO | None = None

    def open(self) -> None:
        """Begin the next file, and delete the oldest if there is no room for it."""
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        sizes = {}
        for path in sorted(self._folder.glob(f"{self._prefix}.*.eldr")):  # oldest run first
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                sizes[path] = path.stat().st_size
        total, room = sum(sizes.values()), self._most - self._most // PARTS
        for path, size in sizes.items():
            if total <= room:
                break
            path.unlink(missing_ok=True)
            total -= size
        self._file = (self._folder / f"{self._prefix}.{self.run}.{self._number:06}.eldr").open("xb")
        self._number += 1

    def append(self, frame: bytes) -> None:
        """Write a frame, in a new file if this one is full."""
        if self._file is None or self._file.tell() + len(frame) > self._most // PARTS:
            self.open()
        assert self._file is not None
        self._file.write(frame)
        self._file.flush()

    def close(self) -> None:
        """Close the files; nothing more is written."""
        if self._file is not None:
            self._file.close()
            self._file = None
