"""Build what a release publishes into dist/, and check it as a user would install it.

Checks that versions agree with each other and the changelog, that each package builds to the same
bytes twice, and that a clean environment serves a placement; writes a bill of materials.
"""

import argparse
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import venv
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
PACKAGES = (
    ".",
    "clients/python",
    "clients/vllm",
    "clients/ray",
    "clients/sglang",
    "clients/dynamo",
    "clients/conformance",
)
SEMANTIC = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?")


def run(*command: str | Path, **more) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **more
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def versions() -> dict[str, str]:
    """Each package's version, by the file that names it."""
    found = {}
    for package in PACKAGES:
        path = ROOT / package / "pyproject.toml"
        found[str(path.relative_to(ROOT))] = tomllib.loads(path.read_text())["project"]["version"]
    for path in sorted((ROOT / "clients").glob("*/Cargo.toml")):
        found[str(path.relative_to(ROOT))] = tomllib.loads(path.read_text())["package"]["version"]
    for path in sorted((ROOT / "clients").glob("*/package.json")):
        found[str(path.relative_to(ROOT))] = json.loads(path.read_text())["version"]
    for path in sorted((ROOT / "clients").glob("*/pom.xml")):
        name = "{http://maven.apache.org/POM/4.0.0}version"
        found[str(path.relative_to(ROOT))] = ElementTree.parse(path).getroot().findtext(name) or ""
    for path in sorted((ROOT / "clients").glob("*/CMakeLists.txt")):
        project = re.search(r"^project\([^)]*VERSION\s+([^\s)]+)", path.read_text(), re.M)
        found[str(path.relative_to(ROOT))] = project[1] if project else ""
    return found


def version() -> str:
    """The version of all packages, which CHANGELOG.md starts with; exits if they differ."""
    found = versions()
    if len(set(found.values())) > 1:
        named = "\n".join(f"  {version or 'none'}  {path}" for path, version in found.items())
        sys.exit(f"expected one version everywhere, found:\n{named}")
    [ours] = set(found.values())
    if not SEMANTIC.fullmatch(ours):
        sys.exit(f"expected a semantic version like 1.2.3 or 1.2.3-rc.1, found {ours}")
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    if not heading or heading[1] != ours:
        sys.exit(f"expected CHANGELOG.md to begin with '## {ours}', found {heading and heading[0]}")
    return ours


def build(source: Path, into: Path, since_epoch: str) -> None:
    env = {**os.environ, "SOURCE_DATE_EPOCH": since_epoch}
    for package in PACKAGES:
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", into, source / package,
            env=env)  # fmt: skip


def checkout(into: Path) -> Path:
    """Check out the commit into another folder, with other permissions."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True)
    old = os.umask(0o027)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(into, filter="data")
    os.umask(old)
    return into


def digests(folder: Path) -> dict[str, str]:
    files = (*folder.glob("*.whl"), *folder.glob("*.tar.gz"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def build_twice(into: Path) -> dict[str, str]:
    """Build the commit in two places; returns the digests, which must be the same."""
    since_epoch = run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip()
    found = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            source, built = checkout(Path(folder) / "source"), Path(folder) / "built"
            build(source, built, since_epoch)
            found.append(digests(built))
            for path in built.iterdir():
                shutil.move(path, into / path.name)
    if found[0] != found[1]:
        differing = [name for name in found[0] if found[0][name] != found[1].get(name)]
        sys.exit(f"expected the same bytes from two builds; these differ: {', '.join(differing)}")
    return found[0]


def place(environment: Path) -> str:
    """The worker on which the environment's daemon places a request."""
    with tempfile.TemporaryDirectory() as folder:
        ports = Path(folder) / "ports"
        listen = [part for flag in ("--listen", "--http") for part in (flag, "127.0.0.1:0")]
        daemon = subprocess.Popen(
            [environment / "bin/eldr-server", *listen, "--state", ":memory:", "--port-file", ports],
            cwd=folder,
        )
        try:
            deadline = time.monotonic() + 120
            while not ports.exists():
                if daemon.poll() is not None or time.monotonic() > deadline:
                    sys.exit("eldr-server of the clean environment does not start")
                time.sleep(0.1)
            eldr = [environment / "bin/eldr", "--server", json.loads(ports.read_text())["grpc"]]
            run(*eldr, "workers", "add", "d0", "--model", "m", "--url", "http://d0")
            said = run(*eldr, "route", "--model", "m", "--request-id", "r0", "--json")
            run(*eldr, "release", "r0", "--model", "m")
            return json.loads(said)["placement"]["worker_id"]
        finally:
            daemon.terminate()
            daemon.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    into = parser.parse_args().out
    into.mkdir(parents=True, exist_ok=True)
    for path in into.iterdir():
        path.unlink()
    print(f"version {version()}: {len(versions())} packages and CHANGELOG.md agree")
    if run("git", "status", "--porcelain", cwd=ROOT):
        print("uncommitted changes are not in the release")
    sums = build_twice(into)
    (into / "SHA256SUMS").write_text("".join(f"{sums[name]}  {name}\n" for name in sums))
    print(f"{len(sums)} files in {into}: the same bytes from two builds")
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "clean"
        venv.create(environment, with_pip=True)
        run(environment / "bin/pip", "install", "--quiet", *into.glob("*.whl"))
        print(f"a clean environment places a request on {place(environment)}")
        bill = into / "eldr.cdx.json"
        run(Path(sys.executable).with_name("cyclonedx-py"), "environment", environment,
            "--short-PURLs", "--output-reproducible", "--output-file", bill)  # fmt: skip
        parts = json.loads(bill.read_text())["components"]
        print(f"{bill.name}: {len(parts)} components")


if __name__ == "__main__":
    main()
