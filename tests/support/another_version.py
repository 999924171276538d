"""A program that finds another version of itself installed."""

import os
import shutil
import sys
from importlib.metadata import distribution
from pathlib import Path


def another_version(package: str, folder: Path) -> dict[str, str]:
    """The environment in which the package's metadata, copied to the folder, has version 99.0.0."""
    found = distribution(package)
    name = f"{package.replace('-', '_')}-"
    copied = folder / f"{name}99.0.0.dist-info"
    shutil.copytree(found.locate_file(f"{name}{found.version}.dist-info"), copied)
    metadata = (copied / "METADATA").read_text()
    (copied / "METADATA").write_text(
        metadata.replace(f"\nVersion: {found.version}", "\nVersion: 99.0.0")
    )
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
