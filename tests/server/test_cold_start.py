"""A start with compiled kernels on disk, without them, and with anything else in their place."""

import ctypes
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from daemon import running_daemon
from eldr.v1 import policy_pb2, router_pb2
from wire import Client

CAP_DAC_OVERRIDE, PR_CAPBSET_DROP = 1, 24
# Two of the kernels that a start needs; the fewer are damaged, the fewer are compiled again.
DAMAGED = "activation.wrong_row", "order.best_first"


def obey_permissions():
    """Root does not, unless this is dropped; for all others nothing happens."""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


def write_little():
    """A file may have so many bytes: fewer than a compiled kernel, more than the log of a start."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, 8_192))


def start(cache, before=None, **env):
    """What the daemon warned of until it served a request."""
    variables = {"NUMBA_CACHE_DIR": str(cache), **env}
    with (
        running_daemon("--log-format", "json", env=variables, before=before) as daemon,
        Client(daemon.grpc) as client,
    ):
        client.register("m", "w0")
        placed = client.router.Route(router_pb2.RouteRequest(model="m", request_id="r"))
        assert placed.placement.worker_id == "w0"
        return [line["trouble"] for line in daemon.logs if "trouble" in line]


def files(cache, ending="nb?", names=("",)):
    return sorted(p for name in names for p in Path(cache).rglob(f"{name}*.{ending}"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A directory that a cold start has filled."""
    cache = tmp_path_factory.mktemp("filled")
    assert start(cache) == []
    return cache


@pytest.fixture
def cache(filled, tmp_path):
    return Path(shutil.copytree(filled, tmp_path / "cache"))


def test_a_cold_start_keeps_what_the_default_policy_needs_and_compiles_no_more(filled):
    kept = {path.name.partition("-")[0] for path in files(filled)}
    assert {*DAMAGED, "locality_band.choose_in_band", "signature.transform_signature"} <= kept
    assert not {name for name in kept if name.startswith(("assignment", "expert_prediction"))}


def test_a_warm_start_compiles_nothing(cache):
    before = {path: path.stat().st_mtime_ns for path in files(cache)}
    assert start(cache) == []
    assert {path: path.stat().st_mtime_ns for path in files(cache)} == before


def garbage(path):
    path.write_bytes(b"\x80garbage" * 1_000)


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("ending", "damage"),
    [("nbi", garbage), ("nbi", truncated), ("nbc", garbage), ("nbc", truncated), ("nbc", flipped)],
)
def test_damaged_files_are_told_of_and_written_again(cache, ending, damage):
    damaged = files(cache, ending, DAMAGED)
    assert len(damaged) >= len(DAMAGED)
    for path in damaged:
        damage(path)
    found = [path.read_bytes() for path in damaged]
    (trouble,) = start(cache)
    assert "could not be read" in trouble
    assert "written again" in trouble
    assert not {path.read_bytes() for path in damaged} & set(found)


def test_files_of_another_numba_are_not_loaded(cache):
    for path in files(cache, "nbi", DAMAGED):
        _, content = pickle.loads(path.read_bytes()), path.read_bytes()
        path.write_bytes(pickle.dumps("0.1.0") + content)
    assert start(cache) == []
    indices = files(cache, "nbi", DAMAGED)
    assert all(pickle.loads(path.read_bytes()) != "0.1.0" for path in indices)


def test_files_of_another_processor_are_not_loaded(cache):
    before = len(files(cache, "nbc", DAMAGED))
    assert start(cache, NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="") == []
    assert len(files(cache, "nbc", DAMAGED)) == 2 * before


def test_a_filled_directory_need_not_be_writable(cache):
    folders = [cache, *(path for path in cache.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert start(cache, obey_permissions) == []
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_a_full_disk_is_told_of(cache):
    for path in files(cache, names=DAMAGED):
        path.unlink()
    (trouble,) = start(cache, write_little)
    assert "cannot be written to" in trouble
    assert "set NUMBA_CACHE_DIR" in trouble
    assert files(cache, names=DAMAGED) == files(cache, "nbi", DAMAGED)  # and no half of a file


def test_a_cache_directory_that_is_a_file_is_told_of(tmp_path):
    """Kernels are kept where they would be without the variable."""
    (tmp_path / "file").write_text("")
    (trouble,) = start(tmp_path / "file" / "cache")
    assert "NUMBA_CACHE_DIR" in trouble
    assert "is not a writable directory" in trouble


def test_without_a_directory_each_start_compiles_and_says_what_to_do():
    nowhere = {"NUMBA_CACHE_LOCATOR_CLASSES": "ZipCacheLocator"}  # as if none were writable
    (trouble,) = start("", **nowhere)
    assert "no directory" in trouble
    assert "eldr warm-up" in trouble


def test_requests_go_on_while_a_policy_is_compiled(filled):
    """Some seconds of compiling; in the event loop one request would wait for all of it."""
    with (
        running_daemon(env={"NUMBA_CACHE_DIR": str(filled)}) as daemon,
        Client(daemon.grpc) as client,
    ):
        client.register("m", "w0")
        asked = policy_pb2.SetPolicyRequest(model="m", name="marginal-cost")
        switching = client.policy.SetPolicy.future(asked)
        number, longest, compiled = 0, 0.0, time.monotonic()
        while not switching.done():
            began = time.monotonic()
            request = router_pb2.RouteRequest(model="m", request_id=f"r{number}")
            client.router.Route(request)
            client.release("m", f"r{number}")
            longest, number = max(longest, time.monotonic() - began), number + 1
        compiled = time.monotonic() - compiled
        assert switching.result().active.name == "marginal-cost"
        assert number > 10
        assert longest < max(1.0, compiled / 3)


def test_warm_up_leaves_nothing_to_compile_for_any_policy(cache):
    """A process of its own, as NUMBA_CACHE_DIR is read when kernels are imported."""
    command = [sys.executable, "-c", "from eldr_service.cli import main; main()", "warm-up"]
    env = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    said = subprocess.run([*command, "--json"], env=env, check=True, capture_output=True, text=True)
    folders = json.loads(said.stdout)["folders"]
    assert {Path(folder) for folder in folders} == {path.parent for path in files(cache)}
    before = {path: path.stat().st_mtime_ns for path in files(cache)}
    assert any(path.name.startswith("assignment_paths.balance") for path in before)
    with running_daemon("--policy", "marginal-cost", env=env):
        pass
    assert {path: path.stat().st_mtime_ns for path in files(cache)} == before


def test_warm_up_fails_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-c", "from eldr_service.cli import main; main()", "warm-up"]
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "file")}
    failed = subprocess.run(command, env=env, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "is not a writable directory" in failed.stderr
