"""Shell commands of the documentation: a page's blocks, and a shell that runs them as written."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHELLS = {"sh", "bash", "shell", "console"}
SERVERS = {"eldr-server", "eldr-proxy", "redis-server"}
BLOCK = re.compile(
    r"^(?: *<!-- (not run|run by)(?::)? (.+?) -->\n)?( *)```(\S*)[^\n]*\n(.*?)^ *```$", re.M | re.S
)
PORTS = ("50051", "50052", "9464", "9465", "6379", "8200")
DOCUMENTED = re.compile(rf"(?<=[:\s])({'|'.join(PORTS)})\b")
START_SECONDS = 60


@dataclass(frozen=True)
class Block:
    """A block of code; `kept` is "not run" or "run by", with the reason or the test."""

    page: str
    language: str
    text: str
    kept: str | None
    why: str | None
    follows: bool
    """Whether only an empty line is between it and the previous block."""

    @property
    def commands(self) -> list[list[str]]:
        """Its words, one list per command; without here-documents."""
        text = re.sub(r"<<(\w+)\n.*?^\1$", "", self.text, flags=re.M | re.S)
        found, held = [], ""
        for line in text.replace("\\\n", " ").splitlines(keepends=True):
            held += line
            try:
                words = shlex.split(held, comments=True)
            except ValueError:  # a quotation of several lines
                continue
            found += [words] if words else []
            held = ""
        return found


def blocks(page: str) -> Iterator[Block]:
    """All code blocks of a page, given by its path in the checkout."""
    end = -1
    for match in BLOCK.finditer((ROOT / page).read_text("utf-8")):
        kept, why, _, language, text = match.groups()
        yield Block(page, language, text, kept, why, match.start() - end == 2)
        end = match.end()


class Shell:
    """Runs blocks one after another, as in one terminal; servers get their own terminals."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        *ports, proxy = free_ports(len(PORTS) + 1)
        self._ports = dict(zip(PORTS, ports, strict=True))
        self._servers: list[subprocess.Popen[bytes]] = []
        self._environment = folder / ".environment"
        programs = Path(sys.executable).parent
        for entry in ROOT.iterdir():  # commands name files of the checkout
            if entry.name not in (".venv", ".git", "build"):
                (folder / entry.name).symlink_to(entry)
        (folder / ".venv").symlink_to(programs.parent)
        self._variables = {
            "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(folder),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", ""),
            "ELDR_LISTEN": self.here("127.0.0.1:50051"),
            "ELDR_HTTP": self.here("127.0.0.1:9464"),
            "ELDR_SERVER": self.here("127.0.0.1:50051"),
            "ELDR_PROXY_ROUTER": self.here("127.0.0.1:50051"),
            "ELDR_PROXY_LISTEN": f"127.0.0.1:{proxy}",
            "COLUMNS": "120",
        }

    def here(self, text: str) -> str:
        """The text with free ports instead of the documented ones."""
        return DOCUMENTED.sub(lambda match: self._ports[match[0]], text)

    def run(self, text: str) -> str:
        """Run a block's commands, which must all succeed; returns their output."""
        printed, gathered = "", ""
        for line in self.here(text).splitlines(keepends=True):
            words = line.split()
            if words and words[0] in SERVERS and not {"--version", "--help"} & {*words}:
                printed += self._finish(gathered)
                gathered = ""
                self._serve(line)
            else:
                gathered += line
        return printed + self._finish(gathered)

    def _finish(self, text: str) -> str:
        if not text.strip():
            return ""
        done = subprocess.run(
            ["bash", "-c", self._script(text + f"\ndeclare -px > {self._environment}\n")],
            cwd=self.folder,
            env=self._variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _serve(self, line: str) -> None:
        ports, said = (self.folder / f".{kind}-{len(self._servers)}" for kind in ("ports", "said"))
        with said.open("wb") as errors:
            process = subprocess.Popen(
                ["bash", "-c", self._script(f"exec {line}")],
                cwd=self.folder,
                env={**self._variables, "ELDR_PORT_FILE": str(ports)},
                stdout=errors,
                stderr=errors,
            )
        self._servers.append(process)
        port = None  # the daemon tells when it serves
        if not line.startswith("eldr-server"):
            listening = re.search(r"--(?:port |listen \S+:)(\d+)", line)
            port = (
                listening[1]
                if listening
                else self._variables["ELDR_PROXY_LISTEN"].partition(":")[2]
            )
        deadline = time.monotonic() + START_SECONDS
        while not (answers(port) if port else ports.exists()):
            alive = process.poll() is None and time.monotonic() < deadline
            assert alive, f"{line} does not serve: {said.read_text(errors='replace')}"
            time.sleep(0.02)

    def _script(self, text: str) -> str:
        carried = f"if [ -f {self._environment} ]; then . {self._environment}; fi\n"
        return f"{carried}set -aeuo pipefail\n{text}"

    def close(self) -> None:
        """Stop the servers, the last first."""
        for process in reversed(self._servers):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def shell(folder: Path) -> Iterator[Shell]:
    """A shell in a folder that looks like a checkout."""
    opened = Shell(folder)
    try:
        yield opened
    finally:
        opened.close()


def free_ports(number: int) -> list[str]:
    """Loopback ports on which nothing listens now."""
    with ExitStack() as held:
        listeners = [
            held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)
        ]
        return [str(listener.getsockname()[1]) for listener in listeners]


def answers(port: str) -> bool:
    """Whether something listens on a loopback port."""
    try:
        socket.create_connection(("127.0.0.1", int(port)), 0.2).close()
    except OSError:
        return False
    return True


def options_of(words: Sequence[str]) -> set[str]:
    """The options among a command's words, without their values."""
    return {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
