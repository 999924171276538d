"""Routing for tests: drawn, or recorded on real models if the shared data is present."""

from pathlib import Path

import numpy as np

from eldr_service.core.geometry import ModelGeometry
from eldr_service.lab.recordings import Recording

SHARED = Path(__file__).parents[3] / "shared" / "data" / "activations"


def separable(kinds, requests_each, *, layers=3, experts=16, top_k=2, tokens=60, seed=0):
    """Recording of `kinds` kinds of requests, each with its own preferred experts.

    Requests come in turn: 0, 1, …, kinds - 1, 0, 1, …; half of each one's tokens are its prefill.
    """
    rng = np.random.default_rng(seed)
    taste = rng.gumbel(size=(kinds, 1, layers, experts)) * 3
    kind = np.tile(np.arange(kinds), requests_each)
    appeal = taste[kind] + rng.gumbel(size=(len(kind), tokens, layers, experts))
    ids = np.argpartition(-appeal, top_k, axis=-1)[..., :top_k]
    return Recording(
        ModelGeometry(layers, experts, top_k),
        kind.astype(str),
        expert_ids=ids.reshape(-1, layers, top_k),
        offsets=np.arange(len(kind) + 1) * tokens,
        prefill_len=np.full(len(kind), tokens // 2),
    )


def recorded(name):
    """Recording of a real model, or a drawn one of its size if there is none."""
    path = SHARED / f"{name}.npz"
    if path.exists():
        return Recording.load(path)
    return separable(8, 20, layers=8, experts=32, top_k=4)
