"""The wheels as others get them: built by way of the sdist, installed, used from there."""

import json
import os
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    "eldr_service": ROOT,
    "eldr_client": ROOT / "clients/python",
    "eldr_vllm": ROOT / "clients/vllm",
    "eldr_ray": ROOT / "clients/ray",
    "eldr_sglang": ROOT / "clients/sglang",
    "eldr_dynamo": ROOT / "clients/dynamo",
}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The wheel of each distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    for source in SOURCES.values():
        subprocess.run([*build, str(source)], check=True, capture_output=True)
    return {name: next(folder.glob(f"{name}-*.whl")) for name in SOURCES}


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory):
    """A clean environment with the wheels; their dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install"]
    subprocess.run([*pip, "--quiet", "--no-deps", *map(str, wheels.values())], check=True)
    return folder


def run(installed, *command):
    """What a command of the environment says."""
    env = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    program = [str(installed / "bin" / command[0]), *command[1:]]
    said = subprocess.run(
        program, env=env, cwd=installed, check=True, capture_output=True, text=True
    )
    return said.stdout


def names(wheel):
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.parametrize("name", SOURCES)
def test_wheels_are_typed_and_licensed(wheels, name):
    (license_file,) = (n for n in names(wheels[name]) if n.endswith("licenses/LICENSE"))
    licence = zipfile.ZipFile(wheels[name]).read(license_file)
    assert licence == (ROOT / "LICENSE").read_bytes()
    packages = {n.partition("/")[0] for n in names(wheels[name]) if n.endswith("/__init__.py")}
    assert {f"{package}/py.typed" for package in packages} <= names(wheels[name])


def test_the_client_wheel_has_the_contract(wheels):
    found = {n for n in names(wheels["eldr_client"]) if n.endswith(".proto")}
    ours = {f"eldr_client/protos/eldr/v1/{p.name}" for p in (ROOT / "protos/eldr/v1").iterdir()}
    google = {f"eldr_client/protos/google/rpc/{n}.proto" for n in ("status", "error_details")}
    assert found == ours | google


def test_the_contract_compiles_from_the_wheels_folder_alone(installed, tmp_path):
    folder = Path(run(installed, "python", "-m", "eldr_client.protos").strip())
    assert folder.is_relative_to(installed)
    protos = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.proto"))
    out = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", *out]
    subprocess.run([*protoc, *protos], check=True)
    made = tmp_path / "eldr/v1/router_pb2_grpc.py"
    assert made.read_text() == (ROOT / "clients/python/eldr/v1/router_pb2_grpc.py").read_text()


def test_the_daemon_starts_from_the_wheel(installed, tmp_path):
    where = run(installed, "python", "-c", "import eldr_service as it; print(it.__file__)")
    assert Path(where).is_relative_to(installed)
    ports = tmp_path / "ports"
    listen = [f for flag in ("--listen", "--http") for f in (flag, "127.0.0.1:0")]
    daemon = subprocess.Popen(
        [installed / "bin/eldr-server", *listen, "--state", ":memory:", "--port-file", ports],
        env={**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")},
        cwd=installed,
    )
    try:
        deadline = time.monotonic() + 120
        while not ports.exists():
            assert daemon.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        server = json.loads(ports.read_text())["grpc"]
        assert "no workers" in run(installed, "eldr", "--server", server, "workers", "list")
    finally:
        daemon.terminate()
        daemon.wait(20)
