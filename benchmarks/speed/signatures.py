"""Any number of activation counts at the geometry of Qwen3-30B-A3B, for benchmarks."""

import numpy as np

from eldr_service.core.geometry import ModelGeometry

GEOMETRY = ModelGeometry(48, 128, 8)
TOKENS = 700
KINDS = 32


def drawn_counts(n: int, seed: int = 0) -> np.ndarray:
    """Counts [n, 48, 128] uint16 of requests of 700 tokens, of 32 kinds in turn.

    Preferences of all requests, of a kind and of a request are mixed so that cosines of the
    square roots are close to real routing's: 0.88 within a kind, 0.85 between kinds.
    """
    rng = np.random.default_rng(seed)
    concentration = np.full(GEOMETRY.num_experts, 0.5)

    def preferences(how_many: int) -> np.ndarray:
        return rng.dirichlet(concentration, size=(how_many, GEOMETRY.num_layers))

    common, kinds = preferences(1)[0], preferences(KINDS)
    counts = np.empty((n, *common.shape), dtype=np.uint16)
    for request in range(n):
        shares = 0.2 * common + 0.25 * kinds[request % KINDS] + 0.55 * preferences(1)[0]
        counts[request] = rng.multinomial(TOKENS * GEOMETRY.top_k, shares)
    return counts
