"""What a decode engine is: its hardware, its ranks, and how much it can hold."""

from dataclasses import dataclass

from eldr_service.lab.simulation.cost import StepCost


@dataclass(frozen=True, slots=True)
class Engine:
    """One decode engine of one or several data-parallel ranks, each a worker of its own.

    The ranks of an engine step together: a step waits for the slowest. With `expert_parallel` each
    expert lies on one rank, so that rank's experts are read for the tokens of all ranks, and every
    layer waits for the rank that has most to read; without it each rank reads its own copies.

    Attributes
    ----------
    cost : StepCost
    ranks : int
    expert_parallel : bool
    max_running : int
        Requests in a rank's batch at most; later ones wait, first in, first out.
    kv_tokens : int or None
        Tokens of context that a rank's KV memory holds. A request is admitted when prompt and whole
        output fit beside those of the others, so that none is ever preempted. None sets no limit.
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
                raise ValueError(f"{name} must be 1 at least, not {value}")
