"""The signature cache: which experts each KV block's tokens picked, indexed like the KV cache.

A prefix hit passes no layer again, so its part of a signature must be remembered. A block's counts
live and die with it: they start from zero when its offset 0 is written, and what cannot be known
for certain is *unknown*, never an earlier tenant's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eldr_vllm.worker.block_code import (
    BLOCK,
    NO_ROW,
    UNKNOWN,
    add_rows,
    chain_hashes,
    row_lanes,
    subtract_rows,
    sum_blocks,
)

MOST_PICKS = 65_535
"""Most tokens per block times top_k: a plain count has two bytes."""
BLOCKS_A_SUM = 128
"""Blocks per stretch of a prefix whose sum is kept, and blocks of the cache per such sum."""
BLOCKS_A_ROW = 64
"""Blocks per plain row: a block with one is written without decoding and encoding each time."""


@dataclass(frozen=True)
class BlockTotal:
    """The activation counts of a prompt, as far as known.

    Attributes
    ----------
    counts : ndarray of uint32, shape [L, E]
        Each row sums to num_tokens * top_k.
    num_tokens : int
        Tokens counted.
    unknown_tokens : int
        The prompt's other tokens.
    """

    counts: NDArray[np.uint32]
    num_tokens: int
    unknown_tokens: int


class SignatureCache:
    """Exact activation counts of every KV block, and their sums along prefixes.

    Full blocks are kept encoded (see `block_code`); those being written lie plain in a few rows. A
    block that loses its row to another is encoded and loses nothing. Sums of the counts are kept
    for every 128th block of a prefix, least recently used ones evicted, each under a hash of the
    blocks it covers and of their generations, so that a changed block invalidates all old sums.

    Memory is allocated at once and never grows. One thread at a time may call it; the work is done
    without the GIL.

    Parameters
    ----------
    num_blocks, block_size : int
        Of the KV cache; block_size in tokens.
    num_layers, num_experts, top_k : int
        The model's geometry; MoE layers only.

    Raises
    ------
    ValueError
        If a number is not positive, or block_size * top_k is above 65,535.

    Attributes
    ----------
    nbytes : int
        Memory in use, in bytes.
    """

    def __init__(
        self, num_blocks: int, block_size: int, num_layers: int, num_experts: int, top_k: int
    ) -> None:
        if min(num_blocks, block_size, num_layers, num_experts, top_k) < 1:
            raise ValueError("blocks, block size, layers, experts and top_k must be positive")
        picks = block_size * top_k
        if picks > MOST_PICKS:
            raise ValueError(f"block_size * top_k is {picks}, at most {MOST_PICKS} are supported")
        self._block_size = block_size
        self._picks_shape = (num_layers, top_k)
        self._shape = (num_layers, num_experts)
        count = np.dtype(np.uint8 if picks <= np.iinfo(np.uint8).max else np.uint16)
        self._words = math.ceil((picks + num_experts - 1) / 64)
        code_words = self._words * num_layers
        plain_words = math.ceil(num_layers * num_experts * count.itemsize / 8)
        if plain_words <= code_words:
            self._words, code_words = 0, plain_words

        self._codes = np.zeros((num_blocks, code_words), np.uint64)
        self._blocks = np.zeros(num_blocks, BLOCK)
        num_rows = max(1, num_blocks // BLOCKS_A_ROW)
        self._rows = np.zeros((num_rows, row_lanes(*self._shape, self._words)), count)
        self._owners = np.zeros(num_rows, np.int32)
        self._hand = np.zeros(1, np.int64)
        num_sums = max(1, num_blocks // BLOCKS_A_SUM)
        self._sums = np.zeros((num_sums, *self._shape), np.uint32)
        self._sums_known = np.zeros(num_sums, np.int64)
        self._sums_hash = np.zeros(num_sums, np.uint64)
        self._sums_used = np.zeros(num_sums, np.int64)
        self._uses = 0
        self.nbytes: int = sum(
            value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray)
        )
        self.reset()

    def reset(self) -> None:
        """Forget everything, as if no token had ever been computed."""
        self._blocks["held"] = 0
        self._blocks["row"] = NO_ROW
        self._owners[:] = -1
        self._sums_hash[:] = 0
        self._sums_used[:] = 0

    def add(self, slots: ArrayLike, experts: ArrayLike) -> None:
        """Count the experts of the tokens of one forward pass.

        A row at a block's offset 0 restarts the block before any other row of the pass is counted,
        whatever their order. A block becomes unknown, until its offset 0 is written again, if the
        pass leaves a gap in it, rewrites a token without what precedes it, or has an expert outside
        the model's.

        Parameters
        ----------
        slots : integers, shape [rows]
            The KV slot of each token: block * block_size + offset. Negative for padding rows.
        experts : integers, shape [rows, num_layers, top_k]
            The logical experts that each token picked.

        Raises
        ------
        ValueError
            If a shape is wrong, or a slot is beyond the cache. Then nothing has been counted.
        """
        slots = np.ascontiguousarray(slots, np.int64)
        experts = np.ascontiguousarray(experts, np.int32)
        if slots.ndim != 1 or experts.shape != (len(slots), *self._picks_shape):
            raise ValueError(
                f"experts must have shape {(len(slots), *self._picks_shape)} for slots of shape "
                f"{slots.shape}, not {experts.shape}"
            )
        order = np.argsort(slots, kind="stable")
        order = order[np.searchsorted(slots, 0, sorter=order) :]
        if len(order) and slots[order[-1]] >= len(self._blocks) * self._block_size:
            raise ValueError(f"slot {slots[order[-1]]} is beyond {len(self._blocks)} blocks")
        add_rows(
            order,
            slots,
            experts,
            self._block_size,
            self._shape[1],
            self._words,
            self._codes,
            self._rows,
            self._owners,
            self._hand,
            self._blocks,
        )

    def state(self, blocks: NDArray[np.int64]) -> NDArray[np.void]:
        """A BLOCK per block: its number of tokens, and a generation that follows its contents."""
        return self._blocks[blocks]

    def take_back(self, block: int, experts: ArrayLike) -> None:
        """A block's latest tokens, with their `experts` [n, L, top_k], were rejected."""
        subtract_rows(
            block,
            np.ascontiguousarray(experts, np.int32),
            self._shape[1],
            self._words,
            self._codes,
            self._rows,
            self._owners,
            self._hand,
            self._blocks,
        )

    def mark_unknown(self, blocks: ArrayLike) -> None:
        """Distrust blocks until their offset 0 is written, because their KV came from outside.

        Raises
        ------
        ValueError
            If a block is not one of the cache's.
        """
        ids = self._ids(blocks)
        rows = self._blocks["row"][ids]
        self._owners[rows[rows >= 0]] = -1
        self._blocks["row"][ids] = NO_ROW
        self._blocks["held"][ids] = UNKNOWN
        self._blocks["generation"][ids] += 1

    def code(self, block: int) -> NDArray[np.uint64] | None:
        """The contents of a full block, for `restore`; None if it is not full, or unknown."""
        if self._blocks["held"][block] != self._block_size:
            return None
        return self._codes[block].copy()

    def restore(self, block: int, code: NDArray[np.uint64]) -> None:
        """Set a block to the contents of a full one, from `code`."""
        self.mark_unknown([block])
        self._codes[block] = code
        self._blocks["held"][block] = self._block_size

    def total(self, blocks: Sequence[int] | NDArray[np.integer], num_tokens: int) -> BlockTotal:
        """Sum the counts of a prompt's blocks; call it in the step in which the prompt ends.

        A block that holds fewer of the prompt's tokens than it should contributes those, and the
        rest is unknown. One that holds more, because the answer has begun in it, is unknown.

        Parameters
        ----------
        blocks : integers, shape [ceil(num_tokens / block_size)]
            Block ids, in prompt order.
        num_tokens : int

        Raises
        ------
        ValueError
            If the number of blocks is wrong, or one is not in the cache.
        """
        ids = self._ids(blocks)
        if num_tokens < 0 or len(ids) != math.ceil(num_tokens / self._block_size):
            raise ValueError(f"{num_tokens} tokens are not {len(ids)} blocks of {self._block_size}")
        hashes = chain_hashes(ids[: num_tokens // self._block_size], self._blocks, BLOCKS_A_SUM)
        counts, known, done = self._longest_sum(hashes)
        for key in hashes[done:]:
            known += self._sum(ids, done, done + 1, num_tokens, counts)
            self._keep_sum(key, counts, known)
            done += 1
        known += self._sum(ids, done, None, num_tokens, counts)
        return BlockTotal(counts, known, num_tokens - known)

    def _sum(
        self,
        ids: NDArray[np.int64],
        start: int,
        stop: int | None,
        num_tokens: int,
        counts: NDArray[np.uint32],
    ) -> int:
        """Add the blocks from stretch `start` to before stretch `stop` to `counts`."""
        first = start * BLOCKS_A_SUM
        last = None if stop is None else stop * BLOCKS_A_SUM
        return sum_blocks(
            ids[first:last],
            num_tokens - first * self._block_size,
            self._block_size,
            self._shape[1],
            self._words,
            self._codes,
            self._rows,
            self._blocks,
            counts,
        )

    def _longest_sum(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.uint32], int, int]:
        """Counts, known tokens and stretches of the longest prefix with a kept sum."""
        kept = np.flatnonzero(np.isin(hashes, self._sums_hash))
        if not len(kept):
            return np.zeros(self._shape, np.uint32), 0, 0
        index = np.flatnonzero(self._sums_hash == hashes[kept[-1]])[0]
        self._use(index)
        return self._sums[index].copy(), int(self._sums_known[index]), int(kept[-1]) + 1

    def _keep_sum(self, key: np.uint64, counts: NDArray[np.uint32], known: int) -> None:
        index = self._sums_used.argmin()
        self._sums[index] = counts
        self._sums_known[index] = known
        self._sums_hash[index] = key
        self._use(index)

    def _use(self, index: np.intp) -> None:
        self._uses += 1
        self._sums_used[index] = self._uses

    def _ids(self, blocks: ArrayLike) -> NDArray[np.int64]:
        ids = np.ascontiguousarray(blocks, np.int64)
        if ids.ndim != 1 or (len(ids) and not 0 <= ids.min() <= ids.max() < len(self._blocks)):
            raise ValueError(f"blocks must be ids from 0 to {len(self._blocks) - 1}, in one row")
        return ids
