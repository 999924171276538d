"""Compares what was found with what a case expects."""

import math
from collections.abc import Mapping
from typing import Any


def difference(expected: Any, found: Any, where: str = "") -> str:
    """What is wrong, in words; empty if `found` has all that is expected.

    Objects may have more than is expected, lists may not. `{"any": true}` matches anything but null
    and "", `null` a field that is absent or null, `{"between": [LEAST, MOST]}` a number in that
    range, `{"duration": [LEAST, MOST]}` a Duration in it, `{"not": VALUE}` any other value.
    """
    if isinstance(expected, Mapping):
        if set(expected) == {"any"}:
            return "" if found not in (None, "") else f"{where}: expected something, found nothing"
        if set(expected) == {"not"}:
            return "" if found != expected["not"] else f"{where}: expected not {found!r}"
        if set(expected) == {"duration"}:
            seconds = float(str(found or "0s").removesuffix("s"))
            return difference({"between": expected["duration"]}, seconds, where)
        if set(expected) == {"between"}:
            least, most = expected["between"]
            inside = isinstance(found, int | float) and least <= found <= most
            return "" if inside else f"{where}: expected {least} to {most}, found {found!r}"
        if not isinstance(found, Mapping):
            return f"{where}: expected {dict(expected)!r}, found {found!r}"
        parts = ((name, value, found.get(name)) for name, value in expected.items())
        return _first(difference(value, other, f"{where}.{name}") for name, value, other in parts)
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return f"{where}: expected {expected!r}, found {found!r}"
        pairs = enumerate(zip(expected, found, strict=True))
        return _first(difference(one, other, f"{where}[{i}]") for i, (one, other) in pairs)
    if isinstance(expected, float) and isinstance(found, int | float):
        same = math.isclose(expected, found, rel_tol=1e-6)
    else:
        # proto3 omits fields that have their default value.
        same = expected == found or (found is None and expected in (0, "", False))
    return "" if same else f"{where}: expected {expected!r}, found {found!r}"


def _first(differences: Any) -> str:
    return next((each for each in differences if each), "")
