"""The real daemon in its own process, for tests that call it over sockets."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from forked import Forked, forked, forks

START_SECONDS = 60
STOP_SECONDS = 20


@dataclass(frozen=True)
class Daemon:
    grpc: str
    http: str
    process: subprocess.Popen[bytes] | Forked
    stderr_path: Path
    admin: str = ""  # with --admin-listen

    @property
    def said(self) -> str:
        """Its stderr so far; gRPC's core writes raw bytes there."""
        return self.stderr_path.read_text(errors="backslashreplace")

    @property
    def logs(self) -> list[dict]:
        """Its log lines so far; for a daemon with --log-format json."""
        *lines, _unfinished = self.said.split("\n")
        return [json.loads(line) for line in lines]


def command(*flags: str) -> list[str]:
    return [sys.executable, "-c", "from eldr_service.server import main; main()", *flags]


@contextmanager
def running_daemon(
    *flags: str, env: Mapping[str, str] | None = None, before: Callable[[], object] | None = None
) -> Iterator[Daemon]:
    """Start the daemon on free ports, with its state in memory unless the flags say otherwise.

    `before` is called in its process before its program starts.
    """
    with tempfile.TemporaryDirectory() as folder:
        ports, stderr = Path(folder, "ports"), Path(folder, "stderr")
        defaults = {
            "--listen": "127.0.0.1:0",
            "--http": "127.0.0.1:0",
            "--state": ":memory:",
            "--drain-seconds": "0",  # tests end with bookings left
        }
        given = [
            part for flag, value in defaults.items() if flag not in flags for part in (flag, value)
        ]
        arguments = [*given, "--port-file", str(ports), *flags]
        environment = {**os.environ, **(env or {})}
        stderr.touch()
        process: subprocess.Popen[bytes] | Forked
        if before is None and forks(environment):
            process = forked(arguments, environment, stderr)
        else:
            with stderr.open("wb") as errors:
                process = subprocess.Popen(
                    command(*arguments), stderr=errors, env=environment, preexec_fn=before
                )
        try:
            deadline = time.monotonic() + START_SECONDS
            while not ports.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the daemon does not serve: {stderr.read_text()}")
                time.sleep(0.01)
            yield Daemon(**json.loads(ports.read_text()), process=process, stderr_path=stderr)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired as error:
                process.kill()
                process.wait()
                raise RuntimeError(f"the daemon does not stop: {stderr.read_text()}") from error
