"""Generate clients/python/eldr/v1 and build/eldr.binpb from protos/; `--check` names the stale."""

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from google.rpc import status_pb2
from grpc_tools import protoc

ROOT = Path(__file__).parents[1]
STUBS = ROOT / "clients/python"


def generate(into: Path, descriptors: Path) -> None:
    """Run protoc over every .proto; buf reads the descriptor set, so it needs no network."""
    protos = sorted(p.relative_to(ROOT / "protos") for p in (ROOT / "protos").rglob("*.proto"))
    descriptors.parent.mkdir(parents=True, exist_ok=True)
    arguments = [
        "protoc",
        f"-I{ROOT / 'protos'}",
        f"-I{files('grpc_tools') / '_proto'}",
        f"-I{Path(status_pb2.__file__).parents[2]}",  # google/rpc/status.proto
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


def main() -> None:
    descriptors = ROOT / "build/eldr.binpb"
    if "--check" not in sys.argv[1:]:
        generate(STUBS, descriptors)
        return
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh, descriptors)
        expected = {p.relative_to(fresh): p.read_bytes() for p in fresh.rglob("*.py*")}
    found = {
        p.relative_to(STUBS): p.read_bytes()
        for p in (STUBS / "eldr").rglob("*.py*")
        if p.suffix in (".py", ".pyi")
    }
    if stale := sorted(str(p) for p in expected | found if expected.get(p) != found.get(p)):
        sys.exit(f"stale stubs, run `make protos`: {', '.join(stale)}")


if __name__ == "__main__":
    main()
