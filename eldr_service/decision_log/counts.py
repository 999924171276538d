"""Activation counts as a log keeps them: byte by byte of all, which packs best."""

from typing import NamedTuple

import numpy as np
from eldr.v1 import decision_log_pb2 as pb

from eldr_service.core.activation import Counts


class Copied(NamedTuple):
    """The counts of a moment, whatever becomes of their array. The quickest copy there is."""

    data: bytes
    shape: tuple[int, ...]
    width: int
    top_k: int

    @classmethod
    def of(cls, counts: Counts | None, top_k: int) -> "Copied | None":
        """Copy counts [num_layers, num_experts]; None for none."""
        if counts is None:
            return None
        return cls(counts.tobytes(), counts.shape, counts.itemsize, top_k)


def encode(counts: Copied | None, message: pb.LogCounts) -> None:
    """Write counts into a message; none leave it unset."""
    if counts is None:
        return
    message.num_layers, message.num_experts = counts.shape
    message.top_k = counts.top_k
    rest = np.frombuffer(counts.data, f"=u{counts.width}")
    for _ in range((int(rest.max()).bit_length() + 7) // 8):
        message.planes.append(rest.astype(np.uint8).tobytes())
        rest = rest >> 8


def decode(message: pb.LogCounts) -> tuple[Counts, int]:
    """Read counts [num_layers, num_experts], as narrow as they fit, and top_k."""
    shape = message.num_layers, message.num_experts
    counts = np.zeros(shape, np.uint32)
    for place, plane in enumerate(message.planes):
        counts |= np.frombuffer(plane, np.uint8).reshape(shape).astype(np.uint32) << 8 * place
    return counts.astype(np.uint16) if len(message.planes) <= 2 else counts, message.top_k
