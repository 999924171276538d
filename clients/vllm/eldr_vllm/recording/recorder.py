"""Writes a recording, on a thread that the engine never waits for."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Mapping

from eldr_vllm.guard import Guard
from eldr_vllm.recording.files import RecordingFiles
from eldr_vllm.recording.tables import Row, frame

logger = logging.getLogger("vllm.eldr")  # appears in vLLM's log

MOST_WAITING = 64 << 20  # bytes
ROW_BYTES = 128  # about, of a row without arrays
FRAME_BYTES = 4 << 20
FRAME_SECONDS = 1.0  # the most that a killed engine loses
FAREWELL = 5.0


class Recorder:
    """Queues rows in bounded memory; rows without room are dropped and counted, and logged once.

    A folder that cannot be written to ends the recording with one warning, and nothing else.

    Parameters
    ----------
    files : RecordingFiles
    about : mapping of str to str
        About the engine; written to every frame, with `dropped`, the rows lost so far.
    """

    def __init__(self, files: RecordingFiles, about: Mapping[str, str]) -> None:
        self._files, self._about = files, {"run": files.run, **about}
        self._guard = Guard("recording")
        self._rows: dict[str, list[Row]] = defaultdict(list)
        self._waiting = 0
        self._dropped = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="eldr-recording", daemon=True)
        self._thread.start()

    @property
    def active(self) -> bool:
        """False once writing has failed."""
        return self._guard.active

    def put(self, table: str, *row: object) -> None:
        """Queue rows of a table: one value per column, see `tables.TABLES`."""
        if not self.active:
            return
        size = ROW_BYTES + sum(getattr(value, "nbytes", 0) for value in row)
        with self._changed:
            if self._waiting + size > MOST_WAITING:
                if not self._dropped:
                    logger.warning("the disk is too slow for the recording: rows are dropped")
                self._dropped += 1
                return
            self._rows[table].append(row)
            self._waiting += size
            if self._waiting >= FRAME_BYTES:
                self._changed.notify()

    def close(self) -> None:
        """Write what is queued, within a few seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(FAREWELL)

    def _loop(self) -> None:
        self._guard.run(self._files.open)
        while self.active:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closing or self._waiting >= FRAME_BYTES, FRAME_SECONDS
                )
                closing = self._closing
                rows, self._rows = self._rows, defaultdict(list)
                self._waiting = 0
                about = {**self._about, "dropped": str(self._dropped)}
            if rows:
                about["written"] = f"{time.time():.3f}"
                self._guard.run(self._write, rows, about)
            if closing:
                break
        self._files.close()

    def _write(self, rows: dict[str, list[Row]], about: Mapping[str, str]) -> None:
        self._files.append(frame(rows, about))
