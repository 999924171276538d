"""The contents of a request's KV blocks, by vLLM's own hashes."""

from typing import Any

from vllm.config import VllmConfig
from vllm.v1.core.kv_cache_utils import resolve_kv_cache_block_sizes
from vllm.v1.kv_cache_interface import KVCacheConfig

from eldr_vllm.messages import BlockHash


class BlockHashes:
    """Hashes of the full blocks of one KV cache group; each may span several of vLLM's blocks.

    Parameters
    ----------
    config : VllmConfig
    kv_cache : KVCacheConfig
    block_size : int
        The group's block size.
    """

    def __init__(self, config: VllmConfig, kv_cache: KVCacheConfig, block_size: int) -> None:
        self.block_size = block_size
        hashed = resolve_kv_cache_block_sizes(kv_cache, config)[1]
        self._stride = 0 if block_size % hashed else block_size // hashed

    def between(self, request: Any, blocks: list[int], start: int, end: int) -> list[BlockHash]:
        """The blocks that hold the tokens from `start` to before `end`.

        Blocks entirely within that range come with their hash, if vLLM has one.
        """
        first, last = start // self.block_size, -(-end // self.block_size)
        return [
            (blocks[place], self._hash(request, place, start, end)) for place in range(first, last)
        ]

    def completed(
        self, request: Any, blocks: list[int], before: int, after: int
    ) -> list[BlockHash]:
        """The blocks that a step fills by computing tokens `before` to below `after`."""
        places = range(before // self.block_size, after // self.block_size)
        return [(blocks[place], self._hash(request, place, 0, after)) for place in places]

    def _hash(self, request: Any, place: int, start: int, end: int) -> bytes | None:
        is_whole = start <= place * self.block_size and (place + 1) * self.block_size <= end
        index = (place + 1) * self._stride - 1
        if not is_whole or not self._stride or index >= len(request.block_hashes):
            return None
        return bytes(request.block_hashes[index])
