"""The engine's compiled loops start whatever is where they are kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LOOP = """
from eldr_vllm.worker import distinct
print(*(name for name in vars(distinct) if not name.startswith("__")))
"""
ROOT = Path(__file__).parents[2]


def imported(cache):
    path = os.pathsep.join(map(str, (ROOT / "clients/vllm", ROOT / "clients/python")))
    env = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": path}
    return subprocess.run([sys.executable, "-c", LOOP], env=env, capture_output=True, text=True)


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_damaged_files_cost_the_compiling_and_no_more(tmp_path, ending):
    sound = imported(tmp_path)
    assert sound.returncode == 0, sound.stderr
    files = list(tmp_path.rglob(f"*.{ending}"))
    assert files
    for file in files:
        file.write_bytes(b"\x80garbage")
    damaged = imported(tmp_path)
    assert damaged.returncode == 0, damaged.stderr
    assert damaged.stdout == sound.stdout
