"""Packages in their own folders, apart from the environment's."""

import fcntl
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def runtime(*requirements: str) -> Path:
    """A folder with these packages, kept under build/ for later runs."""
    name = hashlib.sha256(repr((sys.version, requirements)).encode()).hexdigest()[:16]
    folder = ROOT / "build/runtimes" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test process may want the same
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
                pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", f"{fresh}/it"]
                subprocess.run([*pip, *requirements], check=True)
                Path(fresh, "it").rename(folder)
    return folder
