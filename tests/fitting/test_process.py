"""The fitting process: real ones, asked, killed, abandoned."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from functools import partial
from operator import attrgetter, methodcaller
from pathlib import Path

import numpy as np
import pytest
import slow_jobs
from children import alive, fitting_processes, linux, open_files
from wire import eventually

from eldr_service.fitting.process import FittingProcess, FittingProcessError

COUNTS = np.arange(2_000 * 3 * 64, dtype=np.uint16).reshape(2_000, 3, 64)


@pytest.fixture
def jobs(monkeypatch):
    """Jobs that the process can import."""
    path = [str(Path(slow_jobs.__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    return slow_jobs


@pytest.fixture
async def process():
    process = FittingProcess()
    yield process
    await process.close()


def given(*parts):
    return lambda: parts


async def running():
    """The pid of the fitting process, once it is there."""
    while not (found := fitting_processes(os.getpid())):
        await asyncio.sleep(0.01)
    (pid,) = found
    return pid


@linux
async def test_jobs_get_their_counts_in_one_niced_process_of_one_thread(process, jobs):
    run = partial(process.run, jobs.surroundings)
    pid, niceness, threads, counts = await run(given(COUNTS[700:], COUNTS[:700]))
    assert (niceness, threads) == (19, "1")
    np.testing.assert_array_equal(counts, np.roll(COUNTS, -700, axis=0))
    for part in (COUNTS[:5].astype(np.uint32), COUNTS[:0], COUNTS[::-1].copy()):
        again, _, _, counts = await run(given(part))
        assert again == pid
        assert counts.dtype == part.dtype
        np.testing.assert_array_equal(counts, part)


async def test_errors_of_jobs_come_back_and_the_process_goes_on(process):
    with pytest.raises(ValueError, match="cannot reshape"):
        await process.run(methodcaller("reshape", 7, 7), given(COUNTS))
    assert await process.run(attrgetter("shape"), given(COUNTS)) == COUNTS.shape


@linux
async def test_after_a_death_the_next_job_has_a_new_process(process, jobs):
    waiting = asyncio.create_task(process.run(jobs.sleep, given(COUNTS)))
    behind = asyncio.create_task(process.run(attrgetter("ndim"), given(COUNTS)))
    os.kill(await running(), signal.SIGKILL)
    with pytest.raises(FittingProcessError):
        await waiting
    assert await behind == 3
    with pytest.raises(FittingProcessError):
        await process.run(jobs.die, given(COUNTS))
    assert await process.run(attrgetter("ndim"), given(COUNTS)) == 3


@linux
async def test_nothing_is_left_behind(process, jobs):
    await process.run(attrgetter("ndim"), given(COUNTS))
    await process.close()
    files = open_files(os.getpid())
    for _ in range(3):
        task = asyncio.create_task(process.run(jobs.sleep, given(COUNTS)))
        pid = await running()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        while alive(pid):
            await asyncio.sleep(0.01)
    while open_files(os.getpid()) > files:  # pipes close with the next turns of the loop
        await asyncio.sleep(0.01)
    assert not fitting_processes(os.getpid())


@linux
def test_it_ends_with_a_daemon_that_is_killed_in_the_middle(jobs):
    parent = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import asyncio, numpy, slow_jobs\n"
            "from eldr_service.fitting.process import FittingProcess\n"
            "asyncio.run(FittingProcess().run(slow_jobs.sleep, lambda: [numpy.ones((9, 2, 2))]))",
        ]
    )
    eventually(lambda: fitting_processes(parent.pid))
    (pid,) = fitting_processes(parent.pid)
    eventually(lambda: b"slow_jobs" in Path(f"/proc/{pid}/maps").read_bytes() or has_slept(pid))
    parent.kill()
    parent.wait()
    eventually(lambda: not alive(pid))


def has_slept(pid):
    """It waits in the job: for a time, not for its stdin."""
    return "nanosleep" in Path(f"/proc/{pid}/wchan").read_text()
