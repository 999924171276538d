"""Build the Node client in build/clients/node/package; with `--lint`, check it only."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "clients/node"
PACKAGE = ROOT / "build/clients/node/package"
INSTALL = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]


def copy() -> None:
    """Copy the source: files deleted there are removed, installed packages stay."""
    for source in SOURCE.iterdir():
        into = PACKAGE / source.name
        if source.name in ("node_modules", "dist"):
            continue
        if source.is_dir():
            shutil.rmtree(into, ignore_errors=True)
            shutil.copytree(source, into)
        else:
            into.write_bytes(source.read_bytes())


def install() -> None:
    """Install the packages, unless already done for this lock file."""
    lock, installed = PACKAGE / "package-lock.json", PACKAGE / "node_modules/.lock"
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        subprocess.run(INSTALL, cwd=PACKAGE, check=True)
        shutil.copy(lock, installed)


def main() -> None:
    PACKAGE.mkdir(parents=True, exist_ok=True)
    copy()
    install()
    task = "lint" if "--lint" in sys.argv else "build"
    if task == "build":
        shutil.rmtree(PACKAGE / "dist", ignore_errors=True)
    subprocess.run(["npm", "run", "--silent", task], cwd=PACKAGE, check=True)


if __name__ == "__main__":
    main()
