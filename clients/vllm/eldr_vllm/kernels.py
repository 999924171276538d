"""Numba: counting over the expert ids of a step."""

import numpy as np
from numba import types
from numpy.typing import NDArray

from eldr_vllm.compiling import kernel, readonly


@kernel(*(types.int64(readonly(ids, 3), types.int64) for ids in (types.uint8, types.int16)))
def count_distinct(experts: NDArray[np.integer], num_experts: int) -> int:
    """Distinct experts of each layer, added up over the layers; `experts` is [rows, layers, k]."""
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


@kernel(
    *(
        types.void(types.Array(types.uint32, 3, "C"), readonly(types.int64, 1), readonly(ids, 3))
        for ids in (types.uint8, types.int16)
    )
)
def add_picks(
    counts: NDArray[np.uint32], rows: NDArray[np.int64], experts: NDArray[np.integer]
) -> None:
    """Add the picks of each token, `experts` [n, L, k], to its row of `counts` [rows, L, E].

    A token with an expert that is none of the model's is left out, in all layers.
    """
    num_experts = counts.shape[2]
    tokens, layers, picks = experts.shape
    for token in range(tokens):
        valid = True
        for layer in range(layers):
            for pick in range(picks):
                valid &= 0 <= experts[token, layer, pick] < num_experts
        if not valid:
            continue
        for layer in range(layers):
            for pick in range(picks):
                counts[rows[token], layer, experts[token, layer, pick]] += 1
