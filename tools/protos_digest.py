"""Of which protos the stubs of a client are, told without the tools of its language."""

import hashlib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("clients/go/eldrpb", "clients/node/src/proto", "clients/rust/src/proto")
NAME = "protos.sha256"


def digest() -> str:
    """Of all protos of the contract, their comments too: stubs carry those."""
    found = hashlib.sha256()
    for proto in sorted((ROOT / "protos").rglob("*.proto")):
        found.update(f"{proto.relative_to(ROOT)}\n".encode() + proto.read_bytes())
    return found.hexdigest()


def record(folder: str) -> None:
    """The stubs in this folder are fresh."""
    (ROOT / folder / NAME).write_text(f"{digest()}\n")


def stale() -> list[str]:
    """The folders whose stubs are of other protos."""
    expected = f"{digest()}\n"
    return [folder for folder in FOLDERS if (ROOT / folder / NAME).read_text() != expected]
