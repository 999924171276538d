"""What a policy has gathered, as arrays: for a decision log, from which a replay goes on."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

PolicyState = Mapping[str, NDArray[Any]]


def pack_texts(texts: Iterable[str]) -> NDArray[np.uint8]:
    """Texts of any length as one array of bytes; NumPy's own would pad all to the longest."""
    return np.frombuffer(json.dumps(list(texts)).encode(), np.uint8)


def unpack_texts(packed: NDArray[np.uint8]) -> list[str]:
    """The texts that `pack_texts` was given."""
    texts: list[str] = json.loads(packed.tobytes())
    return texts


def inside(state: PolicyState, part: str) -> PolicyState:
    """Those of a part: its name and a slash begin their names, and are taken off."""
    prefix = f"{part}/"
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def within(part: str, state: PolicyState) -> dict[str, NDArray[Any]]:
    """The same with the part's name before theirs."""
    return {f"{part}/{name}": array for name, array in state.items()}
