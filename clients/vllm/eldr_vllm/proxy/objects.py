"""Parses JSON objects from callers and engines: exactly, and no deeper than can be passed on."""

import json
import reprlib
from typing import Any, NoReturn

MAX_DEPTH = 200  # beyond Python's own limit it could not be written out again


def read_object(data: bytes) -> dict[str, Any]:
    """Parse the object in these bytes.

    Raises
    ------
    ValueError
        They are not a JSON object.
    """
    try:
        value = json.loads(data.decode(), parse_constant=_no_constant)
    except RecursionError:
        raise _too_deep() from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {short(value)}")
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    return value


def short(value: Any) -> str:
    """A short description of a value, however large it is."""
    return _SHORT.repr(value)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = [each.values() if isinstance(each, dict) else each for each in level]
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> ValueError:
    return ValueError(f"expected JSON of at most {MAX_DEPTH} levels, found more")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 300
