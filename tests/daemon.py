"""The real daemon in a process of its own, on free ports."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 60.0  # kernels may have to be compiled first
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Daemon:
    """A daemon that serves."""

    grpc: str
    http: str
    process: subprocess.Popen[bytes]
    stderr_path: Path


@contextmanager
def running_daemon(*flags: str, env: Mapping[str, str] | None = None) -> Iterator[Daemon]:
    """Start `eldr-server` with its state in memory, unless `flags` say otherwise, and end it."""
    with tempfile.TemporaryDirectory(prefix="eldr-") as folder:
        port_file, stderr_path = Path(folder, "ports.json"), Path(folder, "stderr")
        command = [
            *(sys.executable, "-c", "from eldr_service.server import main; main()"),
            *("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--state", ":memory:"),
            *("--drain-seconds", "0", "--port-file", str(port_file), *flags),
        ]
        outside = {key: value for key, value in os.environ.items() if not key.startswith("ELDR_")}
        with stderr_path.open("wb") as stderr:
            process = subprocess.Popen(command, stderr=stderr, env={**outside, **(env or {})})
        try:
            ports = _ports(process, port_file, stderr_path)
            yield Daemon(ports["grpc"], ports["http"], process, stderr_path)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ports(process: subprocess.Popen[bytes], file: Path, stderr: Path) -> dict[str, str]:
    deadline = time.monotonic() + START_SECONDS
    while not file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"eldr-server does not serve:\n{stderr.read_text()}")
        time.sleep(0.02)
    ports: dict[str, str] = json.loads(file.read_text())
    return ports
