"""Bookings with counts, for policies that use experts."""

from dataclasses import replace

import numpy as np
from fleet_snapshot import booking

LAYERS, EXPERTS, TOP_K = 3, 16, 2


def counts(rng, tokens=None):
    """Counts of a prefill whose tokens all pick with the same skewed probabilities."""
    tokens = rng.integers(5, 200) if tokens is None else tokens
    rows = [rng.dirichlet(np.full(EXPERTS, 0.3)) for _ in range(LAYERS)]
    return np.array([rng.multinomial(tokens * TOP_K, row) for row in rows], dtype=np.uint32)


def booked(fleet, worker, name, prefill, **fields):
    known = {} if prefill is None else {"kept": prefill, "top_k": TOP_K, "coverage": 1.0}
    return replace(booking(fleet, worker), request_id=name, **known, **fields)
