"""Activation counts at the geometry of Qwen3-30B-A3B, as many as a benchmark wants."""

import numpy as np

from eldr_service.core.geometry import ModelGeometry

GEOMETRY = ModelGeometry(48, 128, 8)
TOKENS = 700
KINDS = 32


def drawn_counts(n: int, seed: int = 0) -> np.ndarray:
    """Counts [n, 48, 128] uint16 of requests of 700 tokens, of 32 kinds in turn.

    Each layer's picks are drawn from the kind's preferences mixed with the request's own. Speed is
    what they are for: cosines between kinds are about 0.8, within a kind 0.95.
    """
    rng = np.random.default_rng(seed)
    shape = (GEOMETRY.num_layers, GEOMETRY.num_experts)
    concentration = np.full(GEOMETRY.num_experts, 0.5)
    kinds = rng.dirichlet(concentration, size=(KINDS, GEOMETRY.num_layers))
    counts = np.empty((n, *shape), dtype=np.uint16)
    for request in range(n):
        own = rng.dirichlet(concentration, size=GEOMETRY.num_layers)
        shares = 0.7 * kinds[request % KINDS] + 0.3 * own
        counts[request] = rng.multinomial(TOKENS * GEOMETRY.top_k, shares)
    return counts
