"""Blocks whose latest tokens may be drafts, which are recomputed if vLLM rejects them."""

from collections import OrderedDict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from eldr_vllm.worker.signature_cache import SignatureCache


class DraftedBlocks:
    """Removes rejected drafts from the signature cache before their slots are rewritten.

    Parameters
    ----------
    cache : SignatureCache
    block_size : int
    drafts : int
        The most tokens per sequence and step that may be computed in vain.
    num_sequences : int
        The most sequences that generate at the same time.
    """

    def __init__(
        self, cache: SignatureCache, block_size: int, drafts: int, num_sequences: int
    ) -> None:
        self._cache, self._block_size = cache, block_size
        self._most = drafts + 1
        self._limit = 2 * num_sequences  # a sequence's drafts lie in at most two blocks
        # Their tokens' experts, with the generation of their block.
        self._latest: OrderedDict[int, tuple[int, NDArray[np.integer]]] = OrderedDict()
        self._behind: tuple[NDArray[np.int64], NDArray[np.integer]] | None = None

    def add(
        self, slots: NDArray[np.int64], experts: NDArray[np.integer], ends: Iterable[int] = ()
    ) -> None:
        """Count a step like `SignatureCache.add`; what it rewrites was rejected before.

        `ends` are the slots of the last tokens of prompts whose totals are wanted from this step. A
        prompt that had one token left may have drafts after it in its block: `add_behind` counts
        them once the totals have been taken.
        """
        behind = np.zeros(len(slots), np.bool_)
        for end in ends:
            behind |= (slots > end) & (slots // self._block_size == end // self._block_size)
        if behind.any():
            self._behind = slots[behind], experts[behind]
            slots, experts = slots[~behind], experts[~behind]
        self._add(slots, experts)

    def add_behind(self) -> None:
        """Count what `add` left for later, if anything."""
        behind, self._behind = self._behind, None
        if behind is not None:
            self._add(*behind)

    def _add(self, slots: NDArray[np.int64], experts: NDArray[np.integer]) -> None:
        order = np.argsort(slots)
        blocks, starts = np.unique(slots[order] // self._block_size, return_index=True)
        offsets = slots[order[starts]] % self._block_size
        latest = self._take_back(blocks, offsets)
        self._cache.add(slots, experts)
        generations = self._cache.state(blocks)["generation"].tolist()
        counts = np.diff(starts, append=len(slots)).tolist()
        for block, start, count, generation in zip(
            blocks.tolist(), starts.tolist(), counts, generations, strict=True
        ):
            if count <= self._most:  # more are a prompt's
                rows = experts[order[start : start + count]]
                if block in latest:
                    rows = np.concatenate((latest[block], rows))[-self._most :]
                self._latest[block] = generation, rows
        while len(self._latest) > self._limit:
            self._latest.popitem(last=False)

    def _take_back(
        self, blocks: NDArray[np.int64], offsets: NDArray[np.int64]
    ) -> dict[int, NDArray[np.integer]]:
        """The latest tokens, still counted, of blocks that continue from an offset."""
        latest = {}
        for block, offset, state in zip(
            blocks.tolist(), offsets.tolist(), self._cache.state(blocks), strict=True
        ):
            generation, rows = self._latest.pop(block, (None, ()))
            again = int(state["held"]) - offset
            if not offset or generation != state["generation"] or again > len(rows):
                continue
            if again > 0:
                self._cache.take_back(block, rows[-again:])
                rows = rows[:-again]
            latest[block] = rows
        return latest
