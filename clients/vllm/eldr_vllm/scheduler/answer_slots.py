"""Where the tokens of an answer lie in the KV cache, as they are computed."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class AnswerSlots:
    """Follows one sequence; what is computed again after a preemption is not told again.

    Positions before `counted` are the prompt's, or have been told. `block` is the KV block of the
    `block_index`-th stretch of positions.
    """

    counted: int
    block_index: int = -1
    block: int = 0

    def advance(
        self, before: int, after: int, blocks: Callable[[], tuple[list[int], ...]], block_size: int
    ) -> list[int]:
        """KV slots of the answer's tokens that a step computes for the first time.

        The step computes the positions from `before` to below `after`. `blocks` is slow for long
        sequences, so it is called once a block.
        """
        slots = []
        for position in range(max(before, self.counted), after):
            index, offset = divmod(position, block_size)
            if index != self.block_index:
                self.block_index, self.block = index, blocks()[0][index]
            slots.append(self.block * block_size + offset)
        self.counted = max(self.counted, after)
        return slots

    def moved(self) -> None:
        """The sequence's blocks are others now."""
        self.block_index = -1
