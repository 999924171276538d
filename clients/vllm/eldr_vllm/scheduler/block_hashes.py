"""Which content a request's KV blocks have, by vLLM's own hashes."""

from typing import Any

from vllm.config import VllmConfig
from vllm.v1.core.kv_cache_utils import resolve_kv_cache_block_sizes
from vllm.v1.kv_cache_interface import KVCacheConfig

from eldr_vllm.messages import BlockHash


class BlockHashes:
    """Hashes of the full blocks of one KV cache group, which may span several of vLLM's.

    Parameters
    ----------
    config : VllmConfig
    kv_cache : KVCacheConfig
    block_size : int
        Of the group.
    """

    def __init__(self, config: VllmConfig, kv_cache: KVCacheConfig, block_size: int) -> None:
        self.block_size = block_size
        hashed = resolve_kv_cache_block_sizes(kv_cache, config)[1]
        self._stride = 0 if block_size % hashed else block_size // hashed

    def between(self, request: Any, blocks: list[int], start: int, end: int) -> list[BlockHash]:
        """The blocks in which the tokens from `start` to before `end` lie.

        With them the hashes of those that lie between the two as a whole, where vLLM has one.
        """
        first, last = start // self.block_size, -(-end // self.block_size)
        return [
            (blocks[place], self._hash(request, place, start, end)) for place in range(first, last)
        ]

    def completed(
        self, request: Any, blocks: list[int], before: int, after: int
    ) -> list[BlockHash]:
        """The blocks that a step, which computes `before` to below `after`, makes full."""
        places = range(before // self.block_size, after // self.block_size)
        return [(blocks[place], self._hash(request, place, 0, after)) for place in places]

    def _hash(self, request: Any, place: int, start: int, end: int) -> bytes | None:
        is_whole = start <= place * self.block_size and (place + 1) * self.block_size <= end
        index = (place + 1) * self._stride - 1
        if not is_whole or not self._stride or index >= len(request.block_hashes):
            return None
        return bytes(request.block_hashes[index])
