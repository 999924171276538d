"""A process that imports vLLM once and forks an engine for each cell.

On a CPU vLLM spawns its processes, and each imports everything again, which takes longer than all
the rest. Here they are forked too, and do the same. The parent writes one line of JSON per cell,
{"ranks": [{"cell": …, "env": …, "log": path}], "timeout": seconds}, and reads one back when the
cell is done, after a first line with vLLM's version.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path

WEIGHTS = 0.3
"""Bound of random weights. vLLM's default is so small that a token's experts depend on the token
alone, not on those before it."""


def preload() -> None:
    """Import what engines need, and make vLLM fork processes, or run in this one."""
    import vllm.v1.engine.core
    import vllm.v1.engine.utils
    import vllm.v1.executor.multiproc_executor
    import vllm.v1.worker.cpu_worker
    import vllm.v1.worker.gpu_model_runner  # noqa: F401
    from vllm import LLM  # noqa: F401
    from vllm.model_executor.model_loader import dummy_loader
    from vllm.model_executor.models import registry

    def fork() -> multiprocessing.context.BaseContext:
        return multiprocessing.get_context("fork")

    for module in list(sys.modules.values()):
        if module.__name__.startswith("vllm.") and "get_mp_context" in vars(module):
            module.get_mp_context = fork
    registry._run_in_subprocess = lambda inspect: inspect()  # a model class's properties
    dummy_loader.initialize_single_dummy_weight = partial(
        dummy_loader.initialize_single_dummy_weight, low=-WEIGHTS, high=WEIGHTS
    )


def hatch(cell: dict, env: dict[str, str], log: str) -> int:
    """Fork an engine with its output in a file; returns its process group."""
    if child := os.fork():
        return child
    os.setsid()
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(env)
    try:
        from benchmarks.engines.capture_matrix.engine import run

        with tempfile.TemporaryDirectory() as folder:
            print("\nRESULT", json.dumps(run(cell, Path(folder))), flush=True)
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # skip the shutdown of the engine's processes, which is not tested


def wait(children: list[int], timeout: float) -> None:
    """Wait until all have ended or time is up; then kill what is left of them."""
    end = time.monotonic() + timeout
    running = set(children)
    try:
        while running and time.monotonic() < end:
            running -= {child for child in running if os.waitpid(child, os.WNOHANG)[0]}
            time.sleep(0.1)
    finally:  # also if this process is terminated
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
    for child in running:
        os.waitpid(child, 0)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM may print while it is imported
    preload()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    import vllm

    print(json.dumps({"version": vllm.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        start = time.monotonic()
        wait([hatch(**rank) for rank in job["ranks"]], job["timeout"])
        seconds = time.monotonic() - start
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main()
