"""Generate clients/python/eldr/v1 and build/eldr.binpb from protos/; `--check` lists stale files.

The google/rpc protos that the contract needs are copied beside it, for users who compile it.
"""

import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from google.rpc import status_pb2
from grpc_tools import protoc
from protos_digest import stale

ROOT = Path(__file__).parents[1]
STUBS = ROOT / "clients/python"
GOOGLE = Path(status_pb2.__file__).parents[2]
# What calls carry, and what their errors do.
NEEDED = ("google/rpc/status.proto", "google/rpc/error_details.proto")


def generate(into: Path, descriptors: Path) -> None:
    """Run protoc on every .proto; buf reads the descriptor set, so it needs no network."""
    protos = sorted(p.relative_to(ROOT / "protos") for p in (ROOT / "protos").rglob("*.proto"))
    descriptors.parent.mkdir(parents=True, exist_ok=True)
    arguments = [
        "protoc",
        f"-I{ROOT / 'protos'}",
        f"-I{files('grpc_tools') / '_proto'}",
        f"-I{GOOGLE}",
        f"--python_out={into}",
        f"--pyi_out={into}",
        f"--grpc_python_out={into}",
        f"--descriptor_set_out={descriptors}",
        "--include_imports",
        "--include_source_info",
        *map(str, protos),
    ]
    if protoc.main(arguments):
        sys.exit("protoc failed")
    for package in (into / "eldr", into / "eldr/v1"):
        (package / "__init__.py").write_text('"""Generated from protos/ by `make protos`."""\n')
    for name in NEEDED:
        beside = into / "eldr_client/protos" / name
        beside.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(GOOGLE / name, beside)


def generated(root: Path) -> dict[Path, bytes]:
    """The files that `generate` writes, by path below `root`."""
    stubs = (p for p in (root / "eldr").rglob("*.py*") if p.suffix in (".py", ".pyi"))
    beside = (root / "eldr_client/protos/google").rglob("*.proto")
    return {p.relative_to(root): p.read_bytes() for p in (*stubs, *beside)}


def main() -> None:
    descriptors = ROOT / "build/eldr.binpb"
    if "--check" not in sys.argv[1:]:
        generate(STUBS, descriptors)
        return
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh, descriptors)
        expected = generated(fresh)
    found = generated(STUBS)
    old = sorted(str(p) for p in expected | found if expected.get(p) != found.get(p))
    if old := old + stale():
        sys.exit(f"stale stubs, run `make protos`: {', '.join(old)}")


if __name__ == "__main__":
    main()
