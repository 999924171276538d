"""Sets of experts as bits: a batch's distinct experts are a union of a few words."""

import numpy as np
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kept

BITS = 64


def expert_sets(expert_ids: NDArray[np.integer], num_experts: int) -> NDArray[np.uint64]:
    """Encode each token's experts as bits.

    Parameters
    ----------
    expert_ids : ndarray of int, shape [tokens, layers, top_k]
        In [0, num_experts); not checked.
    num_experts : int

    Returns
    -------
    ndarray of uint64, shape [tokens, layers, ceil(num_experts / 64)]
        Expert e is bit ``e % 64`` of word ``e // 64``.
    """
    tokens, layers, _ = expert_ids.shape
    sets = np.zeros((tokens, layers, -(-num_experts // BITS)), np.uint64)
    _set_bits(np.ascontiguousarray(expert_ids), sets)
    return sets


def shard_sets(num_experts: int, ranks: int) -> NDArray[np.uint64]:
    """The experts that each expert-parallel rank holds, shape [ranks, words]: equal runs of them.

    As vLLM places them by default; if they do not divide evenly, the first ranks hold one more.
    """
    ids = np.array_split(np.arange(num_experts), ranks)
    sets = np.zeros((ranks, 1, -(-num_experts // BITS)), np.uint64)
    for rank, held in enumerate(ids):
        _set_bits(held.reshape(1, 1, -1), sets[rank : rank + 1])
    return sets[:, 0]


@kept
def _set_bits(expert_ids: NDArray[np.integer], sets: NDArray[np.uint64]) -> None:
    tokens, layers, top_k = expert_ids.shape
    for token in range(tokens):
        for layer in range(layers):
            for pick in range(top_k):
                expert = np.uint64(expert_ids[token, layer, pick])
                word = np.int64(expert >> np.uint64(6))
                sets[token, layer, word] |= np.uint64(1) << (expert & np.uint64(63))


@kept
def count_bits(word: np.uint64) -> int:
    """Number of bits set in a word."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    pairs = np.uint64(0x3333333333333333)
    word = (word & pairs) + ((word >> np.uint64(2)) & pairs)
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int((word * np.uint64(0x0101010101010101)) >> np.uint64(56))
