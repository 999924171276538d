"""Ten kinds of text available on any Debian 12 machine, split by file into three disjoint parts.

Packages are downloaded and unpacked below `build/`; nothing is installed. `apt-get update` must
have run. A kind has at most 4 MB. A file belongs to one part, by the hash of its kind and name:

=======  =====  ==========================================================================
part     share  for
=======  =====  ==========================================================================
train    80%    training the model
fit      10%    prompts that a partition is fitted on, and the loss that training reports
serve    10%    prompts that are served
=======  =====  ==========================================================================
"""

import argparse
import contextlib
import functools
import gzip
import hashlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.engines.tiny_moe import roff

CACHE = Path(__file__).parents[3] / "build" / "tiny_moe" / "debian"
PARTS = ("train", "fit", "serve")
MOST_BYTES = 4_000_000
"""Per kind, over all parts."""

PACKAGES = {
    "python": ("libpython3.11-stdlib",),
    "c": ("linux-libc-dev", "libc6-dev"),
    "json": ("iso-codes",),
    "licence": ("base-files", "ruby-licensee"),
    "french": ("manpages-fr", "manpages-fr-dev"),
    "spanish": ("manpages-es", "manpages-es-dev"),
    "german": ("manpages-de", "manpages-de-dev"),
    "russian": ("manpages-ru", "manpages-ru-dev"),
    "chinese": ("manpages-zh",),
    "japanese": ("manpages-ja",),
}
"""The Debian packages that hold each kind of text."""

KINDS = tuple(PACKAGES)

GLOBS = {
    "python": ("usr/lib/python3.11/**/*.py",),
    "c": ("usr/include/**/*.h",),
    "json": ("usr/share/iso-codes/json/iso_*.json",),
    "licence": ("usr/share/common-licenses/*", "usr/**/choosealicense.com/_licenses/*.txt"),
    "french": ("usr/share/man/fr/man*/*.gz",),
    "spanish": ("usr/share/man/es/man*/*.gz",),
    "german": ("usr/share/man/de/man*/*.gz",),
    "russian": ("usr/share/man/ru/man*/*.gz",),
    "chinese": ("usr/share/man/zh_CN/man*/*.gz",),
    "japanese": ("usr/share/man/ja/man*/*.gz",),
}

SCRIPTS = {"russian": "[а-яё]", "chinese": "[一-鿿]", "japanese": "[ぁ-ヿ]"}
"""Pages are often only partly translated; paragraphs without these letters are left out."""


def part_of(kind: str, name: str) -> str:
    """The part that a file belongs to, independent of where and in which order files are read."""
    draw = hashlib.sha256(f"{kind}/{name}".encode()).digest()[0] / 256
    return "train" if draw < 0.8 else "fit" if draw < 0.9 else "serve"


def read(kind: str, part: str, cache: Path = CACHE) -> list[str]:
    """The part's texts of a kind, one per file; downloads missing packages."""
    return [text for name, text in _chosen(kind, cache) if part_of(kind, name) == part]


@functools.cache
def _chosen(kind: str, cache: Path) -> list[tuple[str, str]]:
    """Names and texts of a kind's files in all parts: no copies, no short ones, up to the cap."""
    documents = sorted(
        _documents(kind, _unpacked(kind, cache)),
        # In hash order, so that the cap samples files from everywhere.
        key=lambda document: hashlib.sha256(document[0].encode()).digest(),
    )
    chosen: dict[str, str] = {}  # names by texts
    size = 0
    for name, text in documents:
        if len(text) < 400 or text in chosen:
            continue
        size += len(text.encode())
        if size > MOST_BYTES:
            break
        chosen[text] = name
    return [(name, text) for text, name in chosen.items()]


def prompts(kind: str, part: str, sizes: Sequence[int], cache: Path = CACHE) -> list[str]:
    """Pieces of a part's files of exactly these sizes in bytes, each from the start of a line.

    As files quote each other, prompts are left out if either half occurs in the training part.
    ValueError if the part has too little text for all of them.
    """
    known = "\0".join(read(kind, "train", cache)).encode()
    room = max(sizes)
    pieces = [(t, at) for t in read(kind, part, cache) for at in range(0, len(t) - room, 2 * room)]
    pieces.sort(key=lambda piece: hashlib.sha256(f"{piece[1]}{piece[0]}".encode()).digest())
    found: list[str] = []
    for text, at in pieces:
        if len(found) == len(sizes):
            break
        size = sizes[len(found)]
        start = text.find("\n", at, at + room) + 1
        piece = text[start : start + size].encode()[:size]
        halves = piece[: size // 2], piece[size // 2 :]
        if not start or any(half in known for half in halves):
            continue
        with contextlib.suppress(UnicodeDecodeError):  # it ends within a character
            found.append(piece.decode())
    if len(found) < len(sizes):
        raise ValueError(f"the {part} part of {kind} has only {len(found)} prompts")
    return found


def _unpacked(kind: str, cache: Path) -> Path:
    """The folder where a kind's packages are unpacked."""
    root = cache / kind
    if not root.exists():
        fresh = cache / f"{kind}.part"
        fresh.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-q", *PACKAGES[kind]], cwd=fresh, check=True)
        for package in sorted(fresh.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", package.name, "."], cwd=fresh, check=True)
        fresh.rename(root)
    return root


def _documents(kind: str, root: Path) -> Iterator[tuple[str, str]]:
    """Names, and texts in UTF-8, of a kind's files."""
    for pattern in GLOBS[kind]:
        for path in root.glob(pattern):
            if not path.is_file() or path.is_symlink():
                continue
            name = path.relative_to(root).as_posix()
            raw = path.read_bytes()
            try:
                text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
            except UnicodeDecodeError:
                continue
            if kind == "json":
                yield from _slices(name, text)
            elif path.suffix == ".gz":
                yield name, roff.plain(text, SCRIPTS.get(kind, "."))
            else:
                yield name, text


def _slices(name: str, text: str) -> Iterator[tuple[str, str]]:
    """Twelve entries of a JSON list at a time: the package has few, long files."""
    ((key, entries),) = json.loads(text).items()
    for at in range(0, len(entries), 12):
        some = {key: entries[at : at + 12]}
        yield f"{name}#{at}", json.dumps(some, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Print how much text each kind has."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.engines.tiny_moe.texts", description=main.__doc__
    ).parse_args()
    print(f"{'kind':10}" + "".join(f"{part + ', files':>14}{'bytes':>10}" for part in PARTS))
    for kind in KINDS:
        row = f"{kind:10}"
        for part in PARTS:
            texts = read(kind, part)
            row += f"{len(texts):14}{sum(len(t.encode()) for t in texts):10,}"
        print(row)


if __name__ == "__main__":
    main()
