"""What simulated decode workers keep of prompts: blocks in KV memory, by the hashes of prefixes.

As engines do, a worker keeps the blocks of a request that has ended until others need the room,
those that were used longest ago first, of one request the last block first. Blocks that running
requests use stay.
"""

from collections import OrderedDict
from collections.abc import Sequence

Prefix = Sequence[int]


class PrefixCaches:
    """Those of all workers. What requests generate is not kept: it has no hash.

    Parameters
    ----------
    capacities : sequence of int or None
        Tokens of KV memory of each worker; None sets no limit.
    block_tokens : int
        Tokens of a block.
    """

    def __init__(self, capacities: Sequence[int | None], block_tokens: int) -> None:
        self._capacities = capacities
        self.block_tokens = block_tokens
        self._cached: list[OrderedDict[int, None]] = [OrderedDict() for _ in capacities]

    def held(self, worker: int, prefix: Prefix) -> int:
        """Tokens at the beginning of a prompt that the worker need not be sent."""
        cached = self._cached[worker]
        blocks = next((i for i, block in enumerate(prefix) if block not in cached), len(prefix))
        return blocks * self.block_tokens

    def keep(self, worker: int, prefix: Prefix, in_use: int) -> None:
        """Note the blocks of a request that has come, or has ended, as used now.

        `in_use` tokens of the memory are not to be had: what running requests generate has them.
        """
        cached, capacity = self._cached[worker], self._capacities[worker]
        for block in reversed(prefix):
            cached[block] = None
            cached.move_to_end(block)
        if capacity is not None:
            while cached and len(cached) * self.block_tokens > capacity - in_use:
                cached.popitem(last=False)
