"""Numba kernels: arrays in, arrays out. They know nothing of the rest of the project.

They are compiled once, on demand; the result is kept on disk for the next process.
"""

from importlib import import_module
from pkgutil import walk_packages

from eldr_service.kernels.cache import cache_troubles, kept_in, target
from eldr_service.kernels.compiling import compile_ahead, waiting
from eldr_service.kernels.core.activation import wrong_row
from eldr_service.kernels.core.order import best_first
from eldr_service.kernels.core.signature import transform_signature
from eldr_service.kernels.core.signature_memory import moved_towards
from eldr_service.kernels.core.similarity import similarity
from eldr_service.kernels.core.sparse import sparse_counts
from eldr_service.kernels.fitting.assignment import balanced_assignment
from eldr_service.kernels.policies.batches import (
    add_terms,
    add_use,
    expected_active,
    growth,
)
from eldr_service.kernels.policies.expert_prediction import follow_counts, learn_decode, predict_use
from eldr_service.kernels.policies.locality_band import choose_in_band
from eldr_service.kernels.policies.marginal_cost import least_marginal_cost, nearness
from eldr_service.kernels.policies.moves import best_move
from eldr_service.kernels.policies.packed_use import pack_use, unpack_counts
from eldr_service.kernels.policies.remaining import remaining_by_row

__all__ = [
    "FOR_EVERY_POLICY",
    "FOR_EXPLAIN",
    "add_terms",
    "add_use",
    "balanced_assignment",
    "best_first",
    "best_move",
    "cache_troubles",
    "choose_in_band",
    "compile_ahead",
    "expected_active",
    "follow_counts",
    "growth",
    "learn_decode",
    "least_marginal_cost",
    "moved_towards",
    "nearness",
    "pack_use",
    "predict_use",
    "remaining_by_row",
    "similarity",
    "sparse_counts",
    "target",
    "transform_signature",
    "unpack_counts",
    "warm_up",
    "wrong_row",
]

FOR_EVERY_POLICY = (wrong_row, transform_signature, best_first, sparse_counts, moved_towards)
FOR_EXPLAIN = (similarity,)


def warm_up() -> list[str]:
    """Compile every kernel, or load it from disk; returns the directories where they are kept."""
    for module in walk_packages(__path__, f"{__name__}."):
        import_module(module.name)
    kernels = waiting()
    compile_ahead(*kernels)
    return sorted({folder for kernel in kernels if (folder := kept_in(kernel))})
