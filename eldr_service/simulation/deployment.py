"""What is simulated around the engines: capacities, prefill and KV transfer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eldr_service.simulation.engine import Engine


@dataclass(frozen=True, slots=True)
class Delay:
    """Seconds that something takes, by the prompt's length. Nobody waits for anybody in it."""

    fixed_s: float = 0.0
    per_token_s: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.fixed_s < float("inf") and 0 <= self.per_token_s < float("inf")):
            raise ValueError(f"a delay must be finite and not negative: {self}")

    def of(self, prompt_tokens: int) -> float:
        """Seconds for a prompt."""
        return self.fixed_s + self.per_token_s * prompt_tokens


@dataclass(frozen=True, slots=True)
class Deployment:
    """Decode engines behind a router.

    Attributes
    ----------
    engines : tuple of Engine
        May differ: mixed hardware. Their ranks are the workers, in this order.
    capacity : int or None
        Sequences that a worker tells the router it takes; None: as many as its engine runs.
    prefill : Delay
        From arrival to the placement.
    transfer : Delay
        From the placement, when the worker is booked, until the KV cache is on it.
    report_interval_s : float
        How often workers report their loads.
    """

    engines: tuple[Engine, ...]
    capacity: int | None = None
    prefill: Delay = Delay()
    transfer: Delay = Delay()
    report_interval_s: float = 1.0

    def __post_init__(self) -> None:
        if not self.engines:
            raise ValueError("a deployment needs one engine at least")
        if not 0 < self.report_interval_s < float("inf"):
            raise ValueError(f"report_interval_s must be positive, not {self.report_interval_s}")

    @classmethod
    def in_turn(cls, kinds: Sequence[Engine], workers: int, **around: Any) -> "Deployment":
        """As many workers, a multiple of the ranks, of engines that take the kinds in turn."""
        engines = workers // kinds[0].ranks
        return cls(tuple(kinds[i % len(kinds)] for i in range(engines)), **around)

    @property
    def workers(self) -> int:
        """Ranks of all engines."""
        return sum(engine.ranks for engine in self.engines)
