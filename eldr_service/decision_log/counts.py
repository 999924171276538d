"""Activation counts in a log: by byte significance, which compresses best."""

import sys
from typing import NamedTuple

import numpy as np
from eldr.v1 import decision_log_pb2 as pb

from eldr_service.core.activation import Counts


class Kept(NamedTuple):
    """Counts [num_layers, num_experts] that are no longer written to, and their top_k."""

    counts: Counts
    top_k: int


def to_record(kept: Kept | None, message: pb.LogCounts) -> None:
    """Write counts into a message; None leaves it unset."""
    if kept is None:
        return
    counts, message.top_k = kept
    message.num_layers, message.num_experts = counts.shape
    # Not with NumPy, which would release the GIL to the decisions' thread and back at each step.
    data, width = counts.tobytes(), counts.itemsize
    planes = [data[place::width] for place in range(width)]
    if sys.byteorder == "big":
        planes.reverse()
    while planes and planes[-1] == bytes(len(planes[-1])):
        planes.pop()
    message.planes.extend(planes)


def from_record(message: pb.LogCounts) -> tuple[Counts, int]:
    """Read counts [num_layers, num_experts] in the narrowest type, and top_k."""
    shape = message.num_layers, message.num_experts
    counts = np.zeros(shape, np.uint32)
    for place, plane in enumerate(message.planes):
        counts |= np.frombuffer(plane, np.uint8).reshape(shape).astype(np.uint32) << 8 * place
    return counts.astype(np.uint16) if len(message.planes) <= 2 else counts, message.top_k
