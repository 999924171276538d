"""A policy's state as arrays, stored in a decision log so that a replay can continue from it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

PolicyState = Mapping[str, NDArray[Any]]


def pack_texts(texts: Iterable[str]) -> NDArray[np.uint8]:
    """Pack texts of any length into one byte array; NumPy's own would pad all to the longest."""
    return np.frombuffer(json.dumps(list(texts)).encode(), np.uint8)


def unpack_texts(packed: NDArray[np.uint8]) -> list[str]:
    """The texts that `pack_texts` was given."""
    texts: list[str] = json.loads(packed.tobytes())
    return texts


def inside(state: PolicyState, part: str) -> PolicyState:
    """The arrays of a part: those named `part/…`, without that prefix."""
    prefix = f"{part}/"
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def within(part: str, state: PolicyState) -> dict[str, NDArray[Any]]:
    """The arrays, with `part/` before each name."""
    return {f"{part}/{name}": array for name, array in state.items()}
