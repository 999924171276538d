"""Runs fits in a separate process, so that decisions go on meanwhile."""

import asyncio
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NamedTuple, TypeVar

import structlog
from numpy.typing import NDArray

Result = TypeVar("Result")

# Decisions come first: a fit gets only the spare time of one core.
_NICENESS = 19
_ONE_THREAD = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)
_START = (
    f"import os, sys; os.nice({_NICENESS}); "  # before the imports, which take a second
    "from eldr_service.fitting.job import main; main(int(sys.argv[1]))"
)
# Its imports alone hold 150 MB, and refits are minutes apart.
_IDLE_SECONDS = 60.0

log = structlog.get_logger(__name__)


class FittingProcessError(Exception):
    """The process could not be started, or was ended from outside."""


class FittingProcess:
    """One process, started for a job and ended after a minute without jobs.

    A thread talks to it, so that the event loop waits for neither its start nor its pipes. Counts
    are passed in an anonymous memory file, which cannot be left behind. The process ends with the
    daemon, however that ends.
    """

    def __init__(self) -> None:
        self._one_at_a_time = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self._starting = threading.Lock()
        self._started: _Started | None = None
        self._ends = 0  # counts ends, so that a start overtaken by one is detected

    async def run(
        self, job: Callable[[NDArray[Any]], Result], counts: Callable[[], Sequence[NDArray[Any]]]
    ) -> Result:
        """Run a job on counts, after those requested earlier.

        Parameters
        ----------
        job : callable (counts [n, num_layers, num_experts]) -> result
            Pickled, as is the result.
        counts : callable () -> sequence of C-contiguous ndarrays [n, num_layers, num_experts]
            Called when it is the job's turn; concatenated, they are its input. A row that is
            overwritten while it is copied arrives as a mixture of both.

        Raises
        ------
        EldrError, ValueError
            As raised by the job.
        FittingProcessError
        """
        async with self._one_at_a_time:
            if self._idle:
                self._idle.cancel()
            try:
                result, warnings = await asyncio.to_thread(self._answer, job, counts(), self._ends)
            except (OSError, EOFError, pickle.UnpicklingError) as error:
                self._end()
                raise FittingProcessError(str(error) or "it was ended from outside") from error
            except BaseException:  # such as a cancellation: a later call would get its answer
                self._end()
                raise
            self._idle = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._end)
        for warning in warnings:
            log.warning("fit", warning=warning)
        if isinstance(result, Exception):
            raise result
        return result  # type: ignore[no-any-return]

    def _answer(
        self, job: object, parts: Sequence[NDArray[Any]], ends: int
    ) -> tuple[Any, list[str]]:
        """Ask the process; runs in a thread."""
        with self._starting:
            if self._ends != ends:
                raise EOFError("it was ended before it had begun")
            if self._started is None or self._started.process.poll() is not None:
                self._started = _start()
            process, file = self._started
        assert process.stdin
        assert process.stdout
        for part in filter(len, parts):
            _write(file.fileno(), part.data.cast("B"))
        shape = (sum(map(len, parts)), *parts[0].shape[1:])
        request = pickle.dumps((job, parts[0].dtype.str, shape))
        _write(process.stdin.fileno(), memoryview(request))
        answer: tuple[Any, list[str]] = pickle.load(process.stdout)
        file.seek(0)
        file.truncate()
        return answer

    async def close(self) -> None:
        """End the process, if there is one, and its current job."""
        if ended := self._end():
            await asyncio.to_thread(ended.process.wait)

    def _end(self) -> "_Started | None":
        """Kill the process; the thread waiting for its answer sees the end of its output."""
        if self._idle:
            self._idle.cancel()
        with self._starting:
            self._ends += 1
            ended, self._started = self._started, None
        if ended:
            ended.process.kill()
            # A killed process must be waited for, which takes a moment.
            threading.Thread(target=ended.process.wait, daemon=True).start()
        return ended


class _Started(NamedTuple):
    process: subprocess.Popen[bytes]
    counts: BinaryIO


def _start() -> _Started:
    file = _anonymous_file()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _START, str(file.fileno())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(file.fileno(),),
        env={**os.environ, **_ONE_THREAD},
    )
    return _Started(process, file)


def _write(descriptor: int, data: memoryview) -> None:
    """Write all data unbuffered: a buffer for a dead process's pipe could not be flushed."""
    while data:
        data = data[os.write(descriptor, data) :]


def _anonymous_file() -> BinaryIO:
    if sys.platform == "linux":
        return open(os.memfd_create("eldr-counts"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
