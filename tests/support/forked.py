"""Daemons forked from a process that has loaded their code, which takes most of a start.

Each is a separate process that runs the program's `main`, like any other.
"""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

_LOADED_WITH = ("PYTHON", "NUMBA_", "GRPC_", "OMP_")  # read when modules are imported
_NURSERY = """
import gc, json, os, sys
from eldr_service.kernels import warm_up
from eldr_service.server.program import main
warm_up()
gc.freeze()
for line in sys.stdin:
    asked = json.loads(line)
    if "ended" in asked:
        said = os.waitstatus_to_exitcode(os.waitpid(asked["ended"], 0)[1])
    elif said := os.fork():
        pass
    else:
        files = (0, os.devnull, os.O_RDONLY), (2, asked["stderr"], os.O_WRONLY)
        for number, path, flags in files:
            opened = os.open(path, flags)
            os.dup2(opened, number)
            os.close(opened)
        os.dup2(2, 1)
        os.environ.clear()
        os.environ.update(asked["env"])
        sys.argv[1:] = asked["arguments"]
        sys.stdin = open(0)
        main()
        sys.exit()
    print(said, flush=True)
"""


class Forked:
    """The part of `subprocess.Popen` that tests of daemons use."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ends = os.pidfd_open(pid)

    def poll(self) -> int | None:
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        if self._look(timeout) is None:
            raise subprocess.TimeoutExpired(f"forked process {self.pid}", timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._ends, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._ends], [], [], timeout)[0]:
            self.returncode = _ask({"ended": self.pid})
            os.close(self._ends)
        return self.returncode


_lock = threading.Lock()
_nursery: subprocess.Popen[str] | None = None


def forks(env: Mapping[str, str]) -> bool:
    """Whether a process with this environment may be forked from one with ours."""
    names = {name for name in (*env, *os.environ) if name.startswith(_LOADED_WITH)}
    return sys.platform == "linux" and all(env.get(n) == os.environ.get(n) for n in names)


def forked(arguments: Sequence[str], env: Mapping[str, str], stderr: Path) -> Forked:
    """Fork a daemon with these arguments."""
    asked = {"arguments": list(arguments), "env": dict(env), "stderr": str(stderr)}
    return Forked(_ask(asked))


def _ask(asked: Mapping[str, object]) -> int:
    global _nursery
    with _lock:
        if _nursery is None:
            _nursery = subprocess.Popen(
                [sys.executable, "-c", _NURSERY],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            atexit.register(_nursery.terminate)
        assert _nursery.stdin
        assert _nursery.stdout
        print(json.dumps(asked), file=_nursery.stdin, flush=True)
        return int(_nursery.stdout.readline())
