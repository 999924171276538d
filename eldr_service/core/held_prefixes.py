"""Which prompt prefixes each worker is believed to hold in its KV cache, by hashes of blocks.

Hash k of a prompt is of its first k + 1 blocks, so a worker that holds a prefix holds all shorter
ones. A worker is assumed to hold what is booked on it. When its KV memory is full it forgets, as
engines do, the least recently used prefix, from its end. Generated tokens have no hashes until a
later prompt includes them: a worker may hold an answer more than is believed.

One hash per `GRAIN` tokens is kept: a lookup takes a few microseconds for any prompt, and the
estimate is low by less than that.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence

GRAIN = 128
"""Tokens: what a worker holds is known in multiples of it, or of a block if that is larger."""
DEFAULT_CAPACITY = 512_000  # tokens, for a worker with unknown KV memory
MAX_HASHES = 131_072  # of all workers; about 20 MB

Prefixes = OrderedDict[int, None]


class HeldPrefixes:
    """Prefixes held by one model's workers, by their rows in the fleet.

    Parameters
    ----------
    max_hashes : int
        Most hashes over all workers; beyond it the least recently booked worker forgets.
    """

    def __init__(self, max_hashes: int = MAX_HASHES) -> None:
        self._max_hashes = max_hashes
        self._number = 0
        # The worker booked last comes last, and so does the hash used last of a worker.
        self._held: OrderedDict[int, Prefixes] = OrderedDict()

    def __len__(self) -> int:
        """Number of hashes kept."""
        return self._number

    def hold(
        self, row: int, hashes: Sequence[int], block_tokens: int, capacity_tokens: int
    ) -> None:
        """Assume from now on that a worker holds a prompt's blocks.

        Parameters
        ----------
        row : int
        hashes : sequence of int
            Shortest prefix first.
        block_tokens : int
            Tokens per block.
        capacity_tokens : int
            The worker's KV memory; 0 if unknown.
        """
        every = _every(block_tokens)
        kept = hashes[every - 1 :: every]
        if not kept:
            return
        held = self._held.setdefault(row, OrderedDict())
        self._held.move_to_end(row)
        before = len(held)
        for prefix in reversed(kept):  # shortest last: it is forgotten after all longer ones
            held[prefix] = None
            held.move_to_end(prefix)
        most = (capacity_tokens or DEFAULT_CAPACITY) // (every * block_tokens)
        self._number += len(held) - before
        self._shrink(row, len(held) - most)
        while self._number > self._max_hashes:
            self._shrink(next(iter(self._held)), 1)

    def of(self, hashes: Sequence[int], block_tokens: int) -> dict[int, int]:
        """How many of a prompt's tokens workers are believed to hold, by row; zeros are omitted.

        Parameters are as for `hold`.
        """
        every = _every(block_tokens)
        kept = hashes[every - 1 :: every]
        if not kept:
            return {}
        first, step = kept[0], every * block_tokens
        return {
            row: step * bisect_left(kept, True, key=lambda prefix: prefix not in held)
            for row, held in self._held.items()
            if first in held
        }

    def forget(self, row: int) -> None:
        """A worker's life has ended, and its KV cache with it."""
        self._number -= len(self._held.pop(row, ()))

    def _shrink(self, row: int, number: int) -> None:
        """Forget `number` hashes of a worker, the least recently used ones."""
        held = self._held[row]
        for _ in range(number):
            held.popitem(last=False)
            self._number -= 1
        if not held:
            del self._held[row]


def _every(block_tokens: int) -> int:
    """One hash is kept per this many blocks."""
    return max(1, GRAIN // block_tokens)
