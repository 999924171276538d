"""Remembers blocks that left the KV cache, for when their KV comes back from outside."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eldr_vllm.worker.signature_cache import SignatureCache

if TYPE_CHECKING:
    from eldr_vllm.messages import BlockHash

REMEMBERED = 4
"""The most blocks remembered, as a multiple of the KV cache's blocks."""


class KnownBlocks:
    """Remembers the counts of full blocks by their hash, which vLLM computes over a whole prefix.

    If a block's KV comes from a host's memory, a disk or another engine with the same weights, its
    tokens are those of the hash, and so are the experts that they once picked here. A block whose
    hash was never seen stays unknown. Not thread-safe.

    Parameters
    ----------
    cache : SignatureCache
    num_blocks : int
        In the KV cache.
    """

    def __init__(self, cache: SignatureCache, num_blocks: int) -> None:
        self._cache = cache
        self._limit = REMEMBERED * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        self._left: OrderedDict[bytes, NDArray[np.uint64]] = OrderedDict()

    def complete(self, blocks: Iterable[BlockHash]) -> None:
        """The last tokens of these blocks have been counted."""
        for block, content in blocks:
            self._hashes[block] = content

    def begin_anew(self, blocks: Iterable[int]) -> None:
        """The contents of these blocks are about to be overwritten."""
        for block in blocks:
            content, self._hashes[block] = self._hashes[block], None
            code = self._cache.code(block) if content is not None else None
            if content is not None and code is not None:
                self._left[content] = code
                self._left.move_to_end(content)
        while len(self._left) > self._limit:
            self._left.popitem(last=False)

    def fill(self, blocks: Iterable[BlockHash]) -> None:
        """These blocks are filled from outside; entirely, if they have a hash."""
        blocks = list(blocks)
        self.begin_anew(block for block, _ in blocks)
        for block, content in blocks:
            code = self._left.get(content) if content is not None else None
            if code is None:
                self._cache.mark_unknown([block])
            else:
                self._cache.restore(block, code)
                self._hashes[block] = content
