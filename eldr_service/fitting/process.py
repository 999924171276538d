"""Fits run in a process of their own, so that decisions go on meanwhile."""

import asyncio
import contextlib
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, TypeVar

import structlog
from numpy.typing import NDArray

Result = TypeVar("Result")

# Decisions come first: it takes the processor time that nobody else wants, of one core.
_NICENESS = 19
_ONE_THREAD = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)
_START = (
    f"import os, sys; os.nice({_NICENESS}); "  # before the imports, which take a second
    "from eldr_service.fitting.job import main; main(int(sys.argv[1]))"
)
# What is copied for the process between two turns of the event loop: some 0.2 ms.
_PIECE_BYTES = 512 << 10
# Its imports alone hold 150 MB, and refits are minutes apart.
_IDLE_SECONDS = 60.0

log = structlog.get_logger(__name__)


class FittingProcessError(Exception):
    """The process could not be started or was ended from outside."""


class FittingProcess:
    """One process, started when there is a job and ended when there was none for a minute.

    Counts travel in an anonymous file in memory, which has no name that could be left behind. The
    process ends with the daemon, however that ends.
    """

    def __init__(self) -> None:
        self._one_at_a_time = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._file: BinaryIO | None = None

    async def run(
        self, job: Callable[[NDArray[Any]], Result], counts: Callable[[], Sequence[NDArray[Any]]]
    ) -> Result:
        """Run a job on counts, once those asked for before are done.

        Parameters
        ----------
        job : callable (counts [n, num_layers, num_experts]) -> result
            Pickled, as is the result.
        counts : callable () -> sequence of C-contiguous ndarrays [n, num_layers, num_experts]
            Asked for when it is the job's turn; one after another they are what it gets. Rows may
            be overwritten by others while they are copied.

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
                result, warnings = await self._answer(job, counts())
            except (OSError, asyncio.IncompleteReadError) as error:
                raise FittingProcessError(str(error)) from error
            finally:
                loop = asyncio.get_running_loop()
                self._idle = loop.call_later(_IDLE_SECONDS, self._end)
        for warning in warnings:
            log.warning("fit", warning=warning)
        if isinstance(result, Exception):
            raise result
        return result  # type: ignore[no-any-return]

    async def _answer(self, job: object, parts: Sequence[NDArray[Any]]) -> tuple[Any, list[str]]:
        process, file = await self._started()
        assert process.stdin
        assert process.stdout
        try:
            await _copy(parts, file)
            shape = (sum(map(len, parts)), *parts[0].shape[1:])
            process.stdin.write(pickle.dumps((job, parts[0].dtype.str, shape)))
            length = int.from_bytes(await process.stdout.readexactly(8), "little")
            answer = await process.stdout.readexactly(length)
            file.seek(0)
            await asyncio.to_thread(file.truncate)  # 10 ms for 64 MiB
        except BaseException:  # cancelled, say: what it would answer next is not what is asked next
            self._end()
            raise
        return pickle.loads(answer)  # type: ignore[no-any-return]

    async def _started(self) -> tuple[asyncio.subprocess.Process, BinaryIO]:
        if self._process and self._process.returncode is None and self._file:
            return self._process, self._file
        self._end()
        self._file = _anonymous_file()
        descriptor = self._file.fileno()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", _START, str(descriptor)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(descriptor,),
            env={**os.environ, **_ONE_THREAD},
        )
        return self._process, self._file

    async def close(self) -> None:
        """End the process, if there is one, and whatever job it has."""
        process = self._process
        self._end()
        if process:
            await process.wait()

    def _end(self) -> None:
        if self._idle:
            self._idle.cancel()
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended just now
                self._process.kill()
        if self._file:
            self._file.close()
        self._process = self._file = None


def _anonymous_file() -> BinaryIO:
    if sys.platform == "linux":
        return open(os.memfd_create("eldr-counts"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


async def _copy(parts: Sequence[NDArray[Any]], file: BinaryIO) -> None:
    for part in parts:
        rows = max(1, _PIECE_BYTES // max(1, part[:1].nbytes))
        for start in range(0, len(part), rows):
            piece = part[start : start + rows].data.cast("B")
            while piece:
                piece = piece[file.write(piece) :]
            await asyncio.sleep(0)
