"""Activation counts of prompts for a model of two layers and four experts."""

import numpy as np
from eldr_client import Counts


def counts_on_half(half, tokens):
    """Counts of tokens that pick experts 0 and 1, or 2 and 3, in turn."""
    counts = np.zeros((2, 4), np.uint32)
    counts[:, 2 * half] = (tokens + 1) // 2
    counts[:, 2 * half + 1] = tokens // 2
    return Counts(counts, top_k=1)
