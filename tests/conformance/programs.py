"""The clients' programs for the conformance cases, built where they are not Python."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from languages import cargo_into, needs_cargo, needs_go, one_build

CLIENTS = Path(__file__).parents[2] / "clients"
PYTHON = [sys.executable, "-m", "eldr_conformance.python_driver"]


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> None:
    subprocess.run(command, cwd=cwd, env=env, check=True, timeout=840)


def go() -> list[str]:
    with one_build("go") as built:
        run("go", "build", "-o", built / "program", "./conformance", cwd=CLIENTS / "go")
    return [str(built / "program")]


def rust() -> list[str]:
    with one_build("rust") as built:
        build = ("cargo", "build", "--quiet", "--locked", "--example", "conformance")
        run(*build, cwd=CLIENTS / "rust", env=cargo_into(built))
    return [str(built / "debug/examples/conformance")]


# By the client's name: what is needed to build its program, and a function that does and says how
# to start it.
PROGRAMS: dict[str, tuple[tuple[pytest.MarkDecorator, ...], Callable[[], list[str]]]] = {
    "Python, asyncio": ((), lambda: PYTHON),
    "Python, threads": ((), lambda: [*PYTHON, "--sync"]),
    "Go": ((needs_go,), go),
    "Rust": ((needs_cargo,), rust),
}
