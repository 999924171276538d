"""Child processes in their own process groups, which end with the demo however it ends."""

import ctypes
import os
import random
import signal
import socket
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

STOP_SECONDS = 20.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class DemoError(Exception):
    """The demo cannot continue; the message says why."""


class Processes:
    """All processes that the demo has started; leaving the block ends them and their children."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children.values():
            child.terminate()
        for child in self._children.values():
            with suppress(subprocess.TimeoutExpired):
                child.wait(STOP_SECONDS)
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()

    def start(self, name: str, command: list[str], env: Mapping[str, str], nice: int = 0) -> None:
        """Start `command`, with its output in a log of that name."""

        def prepare() -> None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # even if the demo is killed with -9
            os.nice(nice)

        with self._log(name).open("wb") as output:
            self._children[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                start_new_session=True,
                preexec_fn=prepare,
            )

    def bind(self, name: str, processors: Iterable[int]) -> None:
        """Restrict every thread of a child, and of its children, to these processors."""
        group = self._children[name].pid
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # a process or a thread may end meanwhile
                if os.getpgid(int(folder.name)) == group:
                    for thread in (folder / "task").iterdir():
                        os.sched_setaffinity(int(thread.name), processors)

    def check(self) -> None:
        """Raise DemoError, with the end of its log, if a process has ended by itself."""
        for name, child in self._children.items():
            if child.poll() is not None:
                raise DemoError(f"{name} ended with status {child.returncode}:\n{self.tail(name)}")

    def tail(self, name: str) -> str:
        """The end of a process's log."""
        return self._log(name).read_text(errors="replace")[-3000:]

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def free_port() -> int:
    """A port that was free a moment ago, below the ephemeral ports of outgoing connections."""
    while True:
        port = random.randrange(10_000, 32_768)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
