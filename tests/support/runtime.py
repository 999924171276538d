"""Packages in folders of their own, apart from the environment's."""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def runtime(*requirements: str) -> Path:
    """A folder with these packages, kept under build/ for the next time."""
    name = hashlib.sha256(repr((sys.version, requirements)).encode()).hexdigest()[:16]
    folder = ROOT / "build/runtimes" / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", f"{fresh}/it"]
            subprocess.run([*pip, *requirements], check=True)
            Path(fresh, "it").rename(folder)
    return folder
