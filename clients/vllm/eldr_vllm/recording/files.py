"""The files of a recording: appended to, and the oldest dropped so that they stay bounded."""

import re
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

PARTS = 16  # files that an engine's bound is divided among: so much of it goes at once


class RecordingFiles:
    """One engine's. Those that it left earlier count towards its bound.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    engine : str
        Name of the engine; two that share a folder need different ones.
    most_bytes : int
        Of all its files together.

    Every method raises OSError when the folder cannot be made or written to.

    Attributes
    ----------
    run : str
        One life of the engine.
    """

    def __init__(self, folder: Path, engine: str, most_bytes: int) -> None:
        self._folder, self._most = folder, most_bytes
        self._prefix = re.sub(r"[^A-Za-z0-9_-]+", "_", engine)
        self.run = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}"
        self._number = 0
        self._file: BinaryIO | None = None

    def open(self) -> None:
        """Begin the next file, and drop the oldest where there is no room for it."""
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        written = sorted(self._folder.glob(f"{self._prefix}.*.eldr"))  # by time: runs begin with it
        sizes = {path: path.stat().st_size for path in written}
        total, room = sum(sizes.values()), self._most - self._most // PARTS
        for path in written:
            if total <= room:
                break
            path.unlink(missing_ok=True)
            total -= sizes[path]
        self._file = (self._folder / f"{self._prefix}.{self.run}.{self._number:06}.eldr").open("xb")
        self._number += 1

    def append(self, frame: bytes) -> None:
        """Write a frame, in the next file if this one is full."""
        if self._file is None or self._file.tell() + len(frame) > self._most // PARTS:
            self.open()
        assert self._file is not None
        self._file.write(frame)
        self._file.flush()

    def close(self) -> None:
        """Nothing more is written."""
        if self._file is not None:
            self._file.close()
            self._file = None
