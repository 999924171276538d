"""`eldr-proxy` as a process that sends its spans to a receiver."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from benchmarks.demos.demo_vllm.processes import free_port


@contextmanager
def running_proxy(variables: Mapping[str, str], *flags: str) -> Iterator[str]:
    """Its address, once it knows the engines that it needs."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    program = [sys.executable, "-c", "from eldr_vllm.proxy import main; main()"]
    path = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(
        [*program, "--listen", f"127.0.0.1:{port}", "--route-timeout", "2", *flags],
        env={**os.environ, "PYTHONPATH": path, **variables},
    )
    try:
        deadline = time.monotonic() + 60
        while not _is_healthy(url):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        assert process.wait(20) == 0


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url + "/health", timeout=2):
            return True
    except OSError:
        return False
