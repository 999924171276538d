"""Prefix caches of simulated decode workers: blocks in KV memory, by the hashes of prefixes.

As engines do, a worker keeps an ended request's blocks until others need the memory. It evicts the
least recently used blocks first, of one request the last block first, and never blocks that running
requests use.
"""

from collections import OrderedDict
from collections.abc import Sequence

Prefix = Sequence[int]


class PrefixCaches:
    """The caches of all workers. Generated tokens are not kept: they have no hash.

    Parameters
    ----------
    capacities : sequence of int or None
        KV memory of each worker, in tokens; None sets no limit.
    block_tokens : int
        Tokens of a block.
    """

    def __init__(self, capacities: Sequence[int | None], block_tokens: int) -> None:
        self._capacities = capacities
        self.block_tokens = block_tokens
        self._cached: list[OrderedDict[int, None]] = [OrderedDict() for _ in capacities]

    def held(self, worker: int, prefix: Prefix) -> int:
        """Tokens at the beginning of a prompt that the worker already holds."""
        cached = self._cached[worker]
        blocks = next((i for i, block in enumerate(prefix) if block not in cached), len(prefix))
        return blocks * self.block_tokens

    def keep(self, worker: int, prefix: Prefix, in_use: int) -> None:
        """Mark the blocks of a request that has arrived or ended as used now.

        `in_use` tokens of the memory are not available: they hold what running requests generate.
        """
        cached, capacity = self._cached[worker], self._capacities[worker]
        for block in reversed(prefix):
            cached[block] = None
            cached.move_to_end(block)
        if capacity is not None:
            while cached and len(cached) * self.block_tokens > capacity - in_use:
                cached.popitem(last=False)
