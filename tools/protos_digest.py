"""Which protos a client's stubs were generated from, checked without its language's tools."""

import hashlib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("clients/go/eldrpb", "clients/node/src/proto", "clients/rust/src/proto")
NAME = "protos.sha256"


def digest() -> str:
    """Digest of all protos of the contract, including comments, which stubs contain."""
    found = hashlib.sha256()
    for proto in sorted((ROOT / "protos").rglob("*.proto")):
        found.update(f"{proto.relative_to(ROOT)}\n".encode() + proto.read_bytes())
    return found.hexdigest()


def record(folder: str) -> None:
    """Record that the stubs in this folder are up to date."""
    (ROOT / folder / NAME).write_text(f"{digest()}\n")


def stale() -> list[str]:
    """The folders whose stubs were generated from other protos."""
    expected = f"{digest()}\n"
    return [folder for folder in FOLDERS if (ROOT / folder / NAME).read_text() != expected]
