"""Parses option values that are not plain words: pairs, shapes, ranges."""

import re
from collections.abc import Iterable

import typer
from eldr.v1 import activation_pb2

# Limits of the contract's numbers.
MAX_UINT32 = 2**32 - 1
MAX_INT64 = 2**63 - 1


def pairs(texts: Iterable[str] | None, option: str) -> dict[str, str]:
    """Read `key=value` texts."""
    found = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"expected key=value, found {text!r}", param_hint=option)
        found[key] = value
    return found


def geometry(text: str | None) -> activation_pb2.ModelGeometry | None:
    """Read LAYERSxEXPERTSxTOP_K."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})x(\d{1,6})", text)
    if not found:
        raise typer.BadParameter(
            f"expected LAYERSxEXPERTSxTOP_K such as 48x128x8, found {text!r}",
            param_hint="--geometry",
        )
    layers, experts, top_k = map(int, found.groups())
    return activation_pb2.ModelGeometry(num_layers=layers, num_experts=experts, top_k=top_k)


def layers(text: str | None) -> list[int] | None:
    """Read layer numbers and ranges, such as 0-11,20, in ascending order."""
    if text is None:
        return None
    found: set[int] = set()
    for part in text.split(","):
        ends = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part.strip())
        if not ends or int(ends[2] or ends[1]) < int(ends[1]):
            raise typer.BadParameter(
                f"expected layers such as 0-11,20, found {part!r}", param_hint="--layers"
            )
        found.update(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    return sorted(found)
