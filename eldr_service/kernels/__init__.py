"""Numba kernels: arrays in, arrays out. They know nothing of the rest of the project.

Importing them compiles them once; numba keeps the result on disk for the next process.
"""

import numpy as np

from eldr_service.kernels.assignment import balanced_assignment
from eldr_service.kernels.band import choose_in_band, similarity
from eldr_service.kernels.signature import transform_signature

__all__ = [
    "balanced_assignment",
    "choose_in_band",
    "similarity",
    "transform_signature",
    "warm_up",
]


def warm_up() -> None:
    """Call every kernel once, so that the first request pays for nothing."""
    ones = np.ones((1, 1), dtype=np.float32)
    signature = transform_signature(ones.astype(np.uint32), np.zeros(1, np.int64), ones, False)
    slots = np.zeros(1, dtype=np.int32)
    similarity(ones, signature, slots)
    choose_in_band(ones, signature, slots, np.ones(1, np.bool_), np.zeros(1), 0.1)
    balanced_assignment(ones, 1)
