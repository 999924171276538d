"""The Containerfile, built by buildah, and its container, read-only and without rights.

`make image-check` runs this: as root, for some minutes. No registry of images is needed: its base
is Debian with Debian's Python, made by debootstrap under the name that the Containerfile gives.
"""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import grpc
import pytest
from eldr.v1 import fleet_pb2, fleet_pb2_grpc
from eldr_client import RouterClient

ROOT = Path(__file__).parents[2]
BASE = "docker.io/library/python:3.12-slim"
TRUST = "/etc/ssl/certs/ca-certificates.crt"
TOOLS = ("buildah", "debootstrap", "unshare", "chroot")
PORT = 50151
pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("ELDR_IMAGE_TESTS"),
        reason="needs root to build and run a container image: `make image-check` runs it",
    ),
    pytest.mark.timeout(3600),
]


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def buildah(tmp_path_factory):
    """Buildah with images of its own, which end with the tests."""
    assert os.geteuid() == 0, "expected root, as debootstrap and chroot need it"
    assert not (missing := [tool for tool in TOOLS if not shutil.which(tool)]), missing
    folder = tmp_path_factory.mktemp("images")
    places = "--root", folder / "storage", "--runroot", folder / "run", "--storage-driver", "vfs"

    def command(*words, **options):
        return run("buildah", *places, *words, **options)

    yield command
    command("rm", "--all")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def base(buildah, tmp_path_factory):
    root = tmp_path_factory.mktemp("base") / "root"
    packages = "ca-certificates,python3,python3-pip,python3-venv"
    run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", root)
    (root / "usr/bin/python").symlink_to("python3")
    for managed in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        managed.unlink()
    shutil.copyfile(TRUST, f"{root}{TRUST}")  # this machine's way to its package index
    container = buildah("from", "scratch")
    buildah("add", container, root, "/")
    buildah("config", "--env", f"PIP_CERT={TRUST}", container)
    buildah("commit", container, BASE)
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def image(buildah, base, tmp_path_factory):
    """What the Containerfile makes of the last commit: its folder, and its settings."""
    source = tmp_path_factory.mktemp("source")
    run("git", "clone", "--quiet", ROOT, source)
    build = ["build", "--isolation", "chroot", "--network", "host", "--pull-never"]
    buildah(*build, "--file", source / "deploy/Containerfile", "--tag", "eldr", source)
    container = buildah("from", "--pull-never", "localhost/eldr")
    settings = json.loads(buildah("inspect", "--type", "image", "localhost/eldr"))
    return Path(buildah("mount", container)), settings["OCIv1"]["config"]


def start(image, tmp_path, *words):
    """The container's program, with a root that no one writes, a volume, and no rights."""
    root, settings = image
    uid, gid = map(int, settings["User"].split(":"))
    script = (
        'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && '
        'mount --bind "$1" "$0/var/lib/eldr" && mount -t tmpfs none "$0/tmp" && '
        'mount -t proc proc "$0/proc" && shift && '
        f'exec chroot "$0" setpriv --reuid {uid} --regid {gid} --clear-groups --no-new-privs '
        '--bounding-set=-all -- "$@"'
    )
    volume = tmp_path / "volume"
    volume.mkdir(exist_ok=True)
    os.chown(volume, uid, gid)
    line = ["unshare", "--mount", "sh", "-c", script, root, volume]
    line += ["env", "-i", *settings["Env"], *settings["Entrypoint"], *words]
    with (tmp_path / "log").open("wb") as log:
        return subprocess.Popen(list(map(str, line)), stdout=log, stderr=log), tmp_path / "log"


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_container_serves_compiles_nothing_and_writes_only_to_its_volume(image, tmp_path):
    root, settings = image
    before = files(root / "opt/eldr/kernels")
    assert len(before) > 10
    for _ in range(2):  # the second time it finds its worker again
        flags = ["--listen", f"127.0.0.1:{PORT}", "--http", "127.0.0.1:0"]
        process, log = start(image, tmp_path, *flags)
        try:
            with grpc.insecure_channel(f"127.0.0.1:{PORT}") as channel:
                stub = fleet_pb2_grpc.FleetServiceStub(channel)
                worker = fleet_pb2.RegisterWorkerRequest(worker_id="w", model="m", url="http://w")
                stub.RegisterWorker(worker, wait_for_ready=True, timeout=120)
                assert process.poll() is None, log.read_text()
                with (
                    RouterClient(f"127.0.0.1:{PORT}", timeout=5) as client,
                    client.place("m", f"r{time.time()}") as placement,
                ):
                    assert placement.worker_id == "w"
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert "Uid:\t65532\t65532\t65532\t65532" in status
            assert "NoNewPrivs:\t1" in status
            assert "CapEff:\t0000000000000000" in status
        finally:
            process.terminate()
            assert process.wait(60) == 0, log.read_text()
    assert files(root / "opt/eldr/kernels") == before
    assert "NUMBA_CPU_NAME=x86-64-v3" in settings["Env"]
    assert list((tmp_path / "volume").iterdir())


def test_its_other_programs_are_there(image):
    root, _ = image
    for program in ("eldr", "eldr-proxy"):
        assert "usage" in run("chroot", "--userspec=65532:65532", root, program, "--help").lower()
    assert len(list((root / "wheels").glob("eldr_*.whl"))) == 2
