"""A decode engine: its hardware, its ranks, and its capacity."""

from dataclasses import dataclass

from eldr_service.lab.simulation.cost import StepCost


@dataclass(frozen=True, slots=True)
class Engine:
    """One decode engine of one or several data-parallel ranks, each a worker.

    The ranks of an engine step together: a step waits for the slowest. With `expert_parallel` each
    expert lies on one rank, so a rank reads its experts for the tokens of all ranks, and every
    layer waits for the rank that reads most; without it each rank reads its own copies.

    Attributes
    ----------
    cost : StepCost
    ranks : int
    expert_parallel : bool
    max_running : int
        Most requests in a rank's batch; further ones wait, first in, first out.
    kv_tokens : int or None
        Tokens of context that a rank's KV memory holds. A request is admitted when its prompt
        and whole output fit beside the others', so none is ever preempted. None sets no limit.
    """

    cost: StepCost
    ranks: int = 1
    expert_parallel: bool = False
    max_running: int = 256
    kv_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("ranks", "max_running", "kv_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
