"""Counts how many experts a step touched."""

import numpy as np
from numba import types
from numpy.typing import NDArray

from eldr_vllm.compiling import kernel, readonly


@kernel(*(types.int64(readonly(ids, 3), types.int64) for ids in (types.uint8, types.int16)))
def count_distinct(experts: NDArray[np.integer], num_experts: int) -> int:
    """Distinct experts per layer, summed over the layers; `experts` is [rows, layers, k]."""
    rows, layers, picks = experts.shape
    seen = np.zeros((layers, num_experts), np.bool_)
    distinct = 0
    for row in range(rows):
        for layer in range(layers):
            for pick in range(picks):
                expert = experts[row, layer, pick]
                if not seen[layer, expert]:
                    seen[layer, expert] = True
                    distinct += 1
    return distinct
