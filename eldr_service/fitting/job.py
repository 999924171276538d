"""The fitting process: reads jobs from stdin, writes their results to stdout."""

import mmap
import os
import pickle
import select
import sys
import threading
import warnings
from typing import Any

import numpy as np

from eldr_service.core.errors import EldrError


def main(descriptor: int) -> None:
    """Run jobs on the counts in the file behind `descriptor` until stdin ends.

    A pickled (job, dtype, shape) comes in, and a pickled (result or error, warnings) goes out; see
    `fitting.process`. Exceptions other than those that a job may raise end the process.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints must not corrupt the answers
    threading.Thread(target=_end_with_the_daemon, daemon=True).start()
    while True:
        try:
            job, dtype, shape = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(_answer(job, descriptor, dtype, shape), answers)
        answers.flush()


def _answer(job: Any, descriptor: int, dtype: str, shape: tuple[int, ...]) -> Any:
    counts = np.empty(shape, dtype)
    if counts.size:
        memory = mmap.mmap(descriptor, counts.nbytes, access=mmap.ACCESS_READ)
        counts = np.frombuffer(memory, dtype).reshape(shape)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            result = job(counts)
        except (EldrError, ValueError) as error:
            result = error
    return result, [str(warning.message) for warning in caught]


def _end_with_the_daemon() -> None:
    """End, even in the middle of a job, when the daemon does: that closes its end of stdin."""
    ended = select.poll()
    ended.register(0, 0)
    ended.poll()
    os._exit(1)
