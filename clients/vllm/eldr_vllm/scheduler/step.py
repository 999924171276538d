"""What vLLM's scheduler has decided for one step, in the form needed here."""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass

BlocksOf = Callable[[str], tuple[list[int], ...]]


class KvSlots:
    """Where the requests' tokens lie in the KV cache.

    vLLM copies all of a request's blocks for each caller, so the block being written is
    remembered.

    Parameters
    ----------
    group : int
        The KV cache group whose slots these are.
    block_size : int
        Tokens per block of that group.
    """

    def __init__(self, group: int, block_size: int) -> None:
        self.group, self.block_size = group, block_size
        self._blocks_of: BlocksOf | None = None
        self._latest: dict[str, tuple[int, int]] = {}  # index in the request, block

    def begin(self, blocks_of: BlocksOf, resumed: Set[str]) -> None:
        """A new step; resumed requests have other blocks than before."""
        self._blocks_of = blocks_of
        for request_id in resumed:
            self._latest.pop(request_id, None)

    def blocks(self, request_id: str, num_tokens: int) -> list[int]:
        """The blocks of a request's first tokens, in order."""
        assert self._blocks_of is not None
        return self._blocks_of(request_id)[self.group][: -(-num_tokens // self.block_size)]

    def slot(self, request_id: str, position: int) -> int:
        """The KV slot of a token."""
        place, offset = divmod(position, self.block_size)
        latest = self._latest.get(request_id)
        if latest is None or latest[0] != place:
            latest = place, self.blocks(request_id, position + 1)[place]
            self._latest[request_id] = latest
        return latest[1] * self.block_size + offset

    def forget(self, request_id: str) -> None:
        """The request has ended."""
        self._latest.pop(request_id, None)


@dataclass(frozen=True, slots=True)
class ScheduledStep:
    """One step.

    Attributes
    ----------
    now : float
        When it was scheduled, in seconds of the monotonic clock; names the step.
    computed : mapping of str to (int, int)
        Tokens of each scheduled request before and after the step, in the scheduler's order.
    resumed : set of str
        Requests that start over after a preemption.
    slots : KvSlots
    """

    now: float
    computed: Mapping[str, tuple[int, int]]
    resumed: Set[str]
    slots: KvSlots
