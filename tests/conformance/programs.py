"""The clients' programs for the conformance cases, built where they are not Python."""

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from languages import (
    cargo_into,
    needs_cargo,
    needs_cpp,
    needs_go,
    needs_maven,
    needs_node,
    one_build,
)

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "clients"
PYTHON = [sys.executable, "-m", "eldr_conformance.python_driver"]


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> None:
    subprocess.run(command, cwd=cwd, env=env, check=True, timeout=840)


def go() -> list[str]:
    with one_build("go") as built:
        run("go", "build", "-o", built / "program", "./conformance", cwd=CLIENTS / "go")
    return [str(built / "program")]


@cache
def node_package() -> Path:
    """The built package's folder."""
    with one_build("node") as built:
        run(sys.executable, ROOT / "tools/build_node.py", cwd=ROOT)
    return built / "package"


def node() -> list[str]:
    return ["node", str(node_package() / "dist/conformance/program.js")]


def build_cpp() -> Path:
    """The folder with the C++ client and its programs, compiled in few pieces: that is faster."""
    flags = {
        "CMAKE_CXX_FLAGS": "-O1 -Wall -Wextra -Werror",
        "CMAKE_UNITY_BUILD": "ON",
        "CMAKE_UNITY_BUILD_BATCH_SIZE": "0",
        "ELDR_TESTS": "ON",
    }
    source = CLIENTS / "cpp"
    with one_build("cpp") as built:
        given = [f"-D{name}={value}" for name, value in flags.items()]
        run("cmake", "-S", source, "-B", built, *given, cwd=source)
        run("cmake", "--build", built, "--parallel", "2", cwd=source)
    return built


def cpp() -> list[str]:
    return [str(build_cpp() / "eldr-client-program")]


def java_classpath() -> str:
    """Of the client, its program and all they need; built where older than the sources."""
    sources = [CLIENTS / "java/pom.xml", *(CLIENTS.parent / "protos/eldr").rglob("*.proto")]
    sources += (CLIENTS / "java/src").rglob("*.java")
    with one_build("java") as built:
        found = built / "classpath"
        newest = max(source.stat().st_mtime for source in sources)
        if not found.exists() or found.stat().st_mtime < newest:
            goals = ("test-compile", "dependency:build-classpath")
            options = (f"-Deldr.build={built}", f"-Dmdep.outputFile={built / 'dependencies'}")
            run("mvn", "-B", "-q", *goals, *options, cwd=CLIENTS / "java")
            parts = (
                built / "classes",
                built / "test-classes",
                (built / "dependencies").read_text(),
            )
            found.write_text(":".join(map(str, parts)))
    return found.read_text()


def java() -> list[str]:
    # Cases take seconds, so code is compiled once, and little.
    flags = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")
    return ["java", *flags, "-cp", java_classpath(), "eldr.conformance.Program"]


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
    "Node": ((needs_node,), node),
    "C++": ((needs_cpp,), cpp),
    "Java": ((needs_maven,), java),
    "Rust": ((needs_cargo,), rust),
}
