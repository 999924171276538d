"""A Triton backend named `cpu` that compiles nothing: vLLM checks that there is one.

Kernels run in Triton's interpreter (`TRITON_INTERPRET=1`), which is what Model Runner V2 needs on a
machine without a GPU. Triton finds backends by entry points; `prepare` writes ours.
"""

import subprocess
from pathlib import Path

TRITON = "triton==3.7.1"  # used if torch has not brought one
FOLDER = Path(__file__).parents[4] / "build" / "triton-cpu"


def prepare(python: str) -> Path:
    """A folder for PYTHONPATH, with the entry point and, if `python` has none, Triton."""
    metadata = FOLDER / "eldr_triton_cpu-1.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: eldr-triton-cpu\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[triton.backends]\ncpu = {__name__}\n")
    has = [python, "-c", "import importlib.util as u; raise SystemExit(not u.find_spec('triton'))"]
    if not (FOLDER / "triton").exists() and subprocess.run(has).returncode:
        pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(FOLDER)]
        subprocess.run([*pip, TRITON], check=True)
    return FOLDER
