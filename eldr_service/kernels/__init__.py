"""Numba kernels: arrays in, arrays out. They know nothing of the rest of the project.

Importing them compiles them once; numba keeps the result on disk for the next process.
"""

import numpy as np

from eldr_service.kernels.assignment import balanced_assignment
from eldr_service.kernels.band import choose_in_band, similarity
from eldr_service.kernels.expert_prediction import (
    departure,
    follow_counts,
    learn_decode,
    predict_use,
    sketch,
)
from eldr_service.kernels.expert_use import add_use, growth, use_terms
from eldr_service.kernels.marginal_cost import least_marginal_cost, nearness
from eldr_service.kernels.remaining import remaining_by_row
from eldr_service.kernels.signature import transform_signature

__all__ = [
    "add_use",
    "balanced_assignment",
    "choose_in_band",
    "departure",
    "follow_counts",
    "growth",
    "learn_decode",
    "least_marginal_cost",
    "nearness",
    "predict_use",
    "remaining_by_row",
    "similarity",
    "sketch",
    "transform_signature",
    "use_terms",
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
