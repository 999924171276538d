"""`eldr` as a program: what it loads, how it is interrupted, what it prints where."""

import json
import signal
import socket
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from eldr_service.cli.app import app

ELDR = (sys.executable, "-c", "from eldr_service.cli import main; main()")


def run(*words):
    return subprocess.run([*ELDR, *words], capture_output=True, text=True, timeout=60)


def test_a_program_can_read_the_answer(daemon):
    done = run("workers", "list", "--server", daemon.grpc, "--json")
    assert (done.returncode, done.stderr, json.loads(done.stdout)) == (0, "", {"workers": []})
    failed = run("workers", "list", "--server", "127.0.0.1:1")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert len(failed.stderr.splitlines()) == 1


def test_help_loads_nothing_heavy():
    code = (
        "import sys, eldr_service.cli.app as a; a.app(['--help'], standalone_mode=False);"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = set(done.stderr.split())
    assert "typer" in loaded
    assert not loaded & {"grpc", "numba", "numpy", "pydantic_settings", "scipy"}


def test_ctrl_c_is_quiet():
    with socket.create_server(("127.0.0.1", 0)) as hole:
        process = subprocess.Popen(
            [*ELDR, "workers", "list", "--server", f"127.0.0.1:{hole.getsockname()[1]}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        hole.accept()  # it waits for the answer now
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == (b"", b"")
        assert process.returncode == 130


def test_version_and_no_command():
    done = CliRunner().invoke(app, ["--version"])
    assert done.stdout.startswith("eldr ")
    assert "Usage: " in CliRunner().invoke(app, []).output
    unknown = CliRunner().invoke(app, ["worker", "list"])
    assert unknown.exit_code == 2
    assert "workers" in unknown.stderr


@pytest.mark.parametrize(
    "words",
    [
        *(("workers", word) for word in ("list", "add", "drain", "remove")),
        *(("policy", word) for word in ("list", "set")),
        *(("partition", word) for word in ("list", "show", "import", "export")),
        *(("partition", word) for word in ("activate", "rollback")),
        *((word,) for word in ("fit", "route", "release", "explain")),
    ],
)
def test_every_command_has_help(words):
    done = CliRunner().invoke(app, [*words, "--help"])
    assert done.exit_code == 0
    assert "--server" in done.stdout
    assert "--json" in done.stdout
