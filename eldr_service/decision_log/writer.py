"""Writes records to disk in a separate thread, in files within a total bound."""

import contextlib
import errno
import io
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import structlog
import zstandard
from eldr.v1.decision_log_pb2 import LogRecord
from google.protobuf.proto import serialize_length_prefixed

PATTERN = "decisions-*.zst"
FILES = 8  # that share the bound, snapshots aside; one of them is deleted at a time
QUEUE_BYTES = 32 << 20
FRAME_BYTES = 4 << 20  # unpacked
PIECE_BYTES = 64 << 10  # of a frame: about ten decisions
FLUSH_SECONDS = 0.1  # the most that a crash loses
RETRY_SECONDS = 10.0

Make = Callable[[], LogRecord]

log = structlog.get_logger(__name__)


class Writer:
    """A bounded queue and the thread that empties it.

    Other threads may call `offer`, `begin` and `close`, one at a time.

    Parameters
    ----------
    folder : Path
        Created if missing. Logs of earlier runs in it count, and are deleted first.
    max_bytes : int
        Total size of the files.
    lost, wrote : callable (int)
        Told of events that went to no file, and of bytes written; in the writer's thread.

    Raises
    ------
    OSError
        The folder cannot be created or read.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        lost: Callable[[int], None],
        wrote: Callable[[int], None],
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._max_bytes = folder, max_bytes
        self._tell_lost, self._tell_wrote = lost, wrote
        self._sizes = sizes(sorted(folder.glob(PATTERN)))
        self._queue: deque[tuple[int, Make | _Beginning]] = deque()
        self._put = self._taken = 0  # bytes; each is changed by one thread only
        self._lost = 0
        self._file: BinaryIO | None = None
        self._path = folder
        self._snapshot_bytes = 0
        self._broken = self._full = False
        self._asked = self._begun = 0  # files; each is changed by one thread only
        self._retry_at = 0.0
        self._compressor = zstandard.ZstdCompressor(level=1, write_checksum=True)
        self._frame = _Frame(self._compressor)
        self._closing = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decision-log", daemon=True)
        self._thread.start()

    @property
    def is_broken(self) -> bool:
        """Whether nothing is written until the next `begin`."""
        return self._broken and self._asked == self._begun

    @property
    def is_full(self) -> bool:
        """Whether the file is full; the next `begin` is awaited."""
        return self._full and self._asked == self._begun

    @property
    def pending_bytes(self) -> int:
        """Bytes in the queue."""
        return self._put - self._taken

    @property
    def may_begin(self) -> bool:
        """Whether the queue is empty, and the last failure some time ago."""
        return not self.pending_bytes and time.monotonic() >= self._retry_at

    def offer(self, size: int, make: Make) -> bool:
        """Queue a record of about `size` bytes, made later; False if the queue is full."""
        pending = self._put - self._taken
        if pending >= QUEUE_BYTES:
            return False
        self._queue.append((size, make))
        self._put += size
        if pending > QUEUE_BYTES // 4:
            self._wake.set()
        return True

    def begin(
        self, name: str, header: Callable[[int], LogRecord], snapshot: Sequence[Make]
    ) -> None:
        """Begin a file; `header` takes the number of events lost here since the last one."""
        self._asked += 1
        self._queue.append((1, _Beginning(name, header, snapshot)))
        self._put += 1

    def close(self) -> None:
        """Write what is pending, and stop."""
        self._closing = True
        self._wake.set()
        self._thread.join()

    # The thread

    def _run(self) -> None:
        while not self._closing or self._queue:
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()
            while self._queue:
                size, what = self._queue.popleft()
                self._attempt(self._begin if isinstance(what, _Beginning) else self._add, what)
                self._taken += size
            self._attempt(self._flush)
        self._end_file()

    def _end_file(self) -> None:
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # reported when the write failed
            self._file.close()
        self._file = None
        self._sizes.update(sizes([self._path]))  # with a part of a failed write

    def _attempt(self, step: Callable[..., None], *arguments: object) -> None:
        """Run a step; on any error end the log, but never the thread."""
        try:
            step(*arguments)
        except OSError as error:
            log.error("decision log broken off", path=str(self._path), error=error.strerror)
            self._break_off()
        except Exception:  # such as policy parameters that cannot be encoded
            log.exception("decision log broken off", path=str(self._path))
            self._break_off()

    def _break_off(self) -> None:
        self._broken = True
        self._retry_at = time.monotonic() + RETRY_SECONDS
        self._lose(self._frame.records)
        self._frame = _Frame(self._compressor)

    def _lose(self, events: int) -> None:
        self._lost += events
        if events:
            self._tell_lost(events)

    def _add(self, make: Make) -> None:
        if self._broken:
            self._lose(1)
            return
        self._frame.add(make())
        if self._frame.size >= FRAME_BYTES:
            self._flush()

    def _begin(self, beginning: "_Beginning") -> None:
        self._begun += 1  # first, as the caller must not wait forever
        self._attempt(self._flush)
        self._end_file()
        self._path = self._folder / beginning.name
        # What clients sent is private.
        self._file = open(self._path, "xb", opener=partial(os.open, mode=0o600))  # noqa: SIM115
        self._sizes[self._path] = 0
        self._broken = self._full = False
        self._add(lambda: beginning.header(self._lost))
        for make in beginning.snapshot:
            self._add(make)
        self._flush()
        self._snapshot_bytes = self._sizes[self._path]
        self._full = False
        self._lost = 0

    def _flush(self) -> None:
        """Write the frame, after making room for it."""
        if self._broken or not self._frame.records:
            return
        assert self._file
        data = self._frame.finish()
        self._make_room(len(data))
        self._file.write(data)
        self._file.flush()
        self._frame = _Frame(self._compressor)
        self._sizes[self._path] += len(data)
        self._tell_wrote(len(data))
        self._full = self._sizes[self._path] - self._snapshot_bytes >= self._max_bytes // FILES

    def _make_room(self, size: int) -> None:
        """Delete the oldest files until `size` bytes fit beside the rest."""
        excess = sum(self._sizes.values()) + size - self._max_bytes
        for path in [path for path in self._sizes if path != self._path]:
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= self._sizes.pop(path)
        if excess > 0:
            raise OSError(
                errno.ENOSPC,
                f"{self._max_bytes:,} bytes cannot hold a snapshot of the state and the events"
                " until the next one",
            )


def sizes(paths: Iterable[Path]) -> dict[Path, int]:
    """Bytes of each file, without those that were deleted meanwhile."""
    found = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            found[path] = path.stat().st_size
    return found


class _Beginning:
    """A file to begin."""

    def __init__(
        self, name: str, header: Callable[[int], LogRecord], snapshot: Sequence[Make]
    ) -> None:
        self.name, self.header, self.snapshot = name, header, snapshot


class _Frame:
    """A zstandard frame in progress.

    Compression lets other threads run. It goes by pieces: record by record, threads would spend
    more time switching than working; all at once, a decision would wait.
    """

    def __init__(self, compressor: zstandard.ZstdCompressor) -> None:
        self._packer = compressor.compressobj()
        self._packed: list[bytes] = []
        self._piece = io.BytesIO()
        self.records = self.size = 0

    def add(self, record: LogRecord) -> None:
        """Add a record."""
        before = self._piece.tell()
        serialize_length_prefixed(record, self._piece)
        self.records += 1
        self.size += self._piece.tell() - before
        if self._piece.tell() >= PIECE_BYTES:
            self._pack()

    def _pack(self) -> None:
        self._packed.append(self._packer.compress(self._piece.getvalue()))
        self._piece = io.BytesIO()

    def finish(self) -> bytes:
        """The complete frame."""
        self._pack()
        return b"".join((*self._packed, self._packer.flush()))
