"""A plugin of vLLM for tests: an engine forks its processes, which vLLM does itself on GPUs.

On CPUs it spawns them, so that each imports vLLM anew: most of an engine's start. `SPAWN` in the
environment leaves it at that.
"""

import multiprocessing
import os
from pathlib import Path

SPAWN = "ELDR_TESTS_SPAWN"


def install() -> None:
    if os.environ.get(SPAWN):
        return
    context = multiprocessing.get_context
    multiprocessing.get_context = lambda how=None: context("fork" if how == "spawn" else how)


def offer(folder: Path) -> Path:
    """Write the plugin's entry point; vLLM loads it if the folder is on its path."""
    metadata = folder / "forked_engines-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: forked-engines\nVersion: 1\n")
    entry = f"[vllm.general_plugins]\nforked = {__name__}:install\n"
    (metadata / "entry_points.txt").write_text(entry)
    return folder
