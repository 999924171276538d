"""A real Redis or Valkey server for tests, whichever the machine has."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
needs_redis = pytest.mark.skipif(
    SERVER is None, reason="needs redis-server or valkey-server: apt install redis-server"
)


class RedisServer:
    """One server on a port of its own, which it keeps over restarts.

    `flags` are its options; without any it keeps nothing over a restart.
    """

    def __init__(self, folder: Path, *flags: str, port: int = 0) -> None:
        self.port = port or free_port()
        self.folder = folder
        self._flags = flags
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        assert SERVER
        options = ("--port", str(self.port), "--save", "", "--dir", str(self.folder))
        with Path(self.folder, "log").open("ab") as log:
            self.process = subprocess.Popen(
                [SERVER, *options, "--bind", "127.0.0.1", *self._flags], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while self.ask("PING") not in (b"+PONG", b"-NOAUTH Authentication required."):
            assert self.process.poll() is None, Path(self.folder, "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def ask(self, *words: str) -> bytes:
        """The first line of the answer; empty where nothing answers."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall((" ".join(words) + "\r\n").encode())
                return connection.makefile("rb").readline().strip()
        except OSError:
            return b""

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_redis(folder: Path, *flags: str, port: int = 0) -> Iterator[RedisServer]:
    folder.mkdir(exist_ok=True)
    server = RedisServer(folder, *flags, port=port)
    try:
        yield server
    finally:
        server.kill()
