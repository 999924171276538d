"""Numba kernels: arrays in, arrays out. They know nothing of the rest of the project.

Importing them compiles them once; numba keeps the result on disk for the next process.
"""

import numpy as np

from eldr_service.kernels.core.activation import wrong_row
from eldr_service.kernels.core.order import best_first
from eldr_service.kernels.core.signature import transform_signature
from eldr_service.kernels.core.similarity import similarity
from eldr_service.kernels.core.sparse import sparse_counts
from eldr_service.kernels.fitting.assignment import balanced_assignment
from eldr_service.kernels.policies.batches import add_use, growth, use_terms
from eldr_service.kernels.policies.expert_prediction import follow_counts, learn_decode, predict_use
from eldr_service.kernels.policies.locality_band import choose_in_band
from eldr_service.kernels.policies.marginal_cost import least_marginal_cost, nearness
from eldr_service.kernels.policies.remaining import remaining_by_row

__all__ = [
    "add_use",
    "balanced_assignment",
    "best_first",
    "choose_in_band",
    "follow_counts",
    "growth",
    "learn_decode",
    "least_marginal_cost",
    "nearness",
    "predict_use",
    "remaining_by_row",
    "similarity",
    "sparse_counts",
    "transform_signature",
    "use_terms",
    "warm_up",
    "wrong_row",
]


def warm_up() -> None:
    """Call every kernel once, so that the first request pays for nothing."""
    one, ones = np.ones(1), np.ones((1, 1), dtype=np.float32)
    for counts in (np.ones((1, 1), np.uint16), np.ones((1, 1), np.uint32)):
        wrong_row(counts, 1)
        signature, _ = transform_signature(counts, np.zeros(1, np.int64), ones, False)
    slots, codes = np.zeros(1, dtype=np.int32), np.zeros((1, 1), dtype=np.int8)
    similarity(ones, signature, slots)
    eligible = np.ones(1, np.bool_)
    choose_in_band(
        ones, signature, codes, one, one, one, signature, slots, eligible, np.zeros(1), 0.1, 2
    )
    best_first(eligible, eligible, one, 0, 1)
    sparse_counts(np.zeros(0, np.uint8), 1)
    balanced_assignment(ones, 1)
