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
    """One server on its own port, which it keeps over restarts.

    `flags` are its options; without any it loses its data at a restart.
    """

    def __init__(self, folder: Path, *flags: str) -> None:
        self.port = free_port()
        self.folder = folder
        self._flags = flags
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        assert SERVER
        options = ["--port", str(self.port), "--dir", str(self.folder), "--bind", "127.0.0.1"]
        if "--sentinel" not in self._flags:
            options += ["--save", ""]
        with Path(self.folder, "log").open("ab") as log:
            self.process = subprocess.Popen(
                [SERVER, *self._flags, *options], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while self.ask("PING") not in (b"+PONG", b"-NOAUTH Authentication required."):
            assert self.process.poll() is None, Path(self.folder, "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def ask(self, *words: str) -> bytes:
        """The first line of the answer; empty if there is none."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall((" ".join(words) + "\r\n").encode())
                return connection.makefile("rb").readline().strip()
        except OSError:
            return b""

    def says(self, question: str, answer: str) -> bool:
        """Whether the whole answer contains this."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(f"{question}\r\nQUIT\r\n".encode())
            return answer.encode() in connection.makefile("rb").read()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_redis(folder: Path, *flags: str) -> Iterator[RedisServer]:
    folder.mkdir(exist_ok=True)
    server = RedisServer(folder, *flags)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def running_sentinel(folder: Path, master: RedisServer) -> Iterator[RedisServer]:
    """A Sentinel that alone decides, in half a second, that its master, called main, is gone."""
    folder.mkdir()
    file = folder / "sentinel.conf"
    file.write_text(
        f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds main 500\n"
        "sentinel failover-timeout main 2000\n"
    )
    with running_redis(folder, str(file), "--sentinel") as sentinel:
        yield sentinel
