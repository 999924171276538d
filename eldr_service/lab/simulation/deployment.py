"""What is simulated around the engines: capacities, prefill, KV transfer, the routers."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from eldr_service.lab.simulation.engine import Engine
from eldr_service.routing.standing import StandingLimits


@dataclass(frozen=True, slots=True)
class Delay:
    """A delay in seconds that depends on the prompt's length. Requests do not queue for it."""

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
    """Decode engines behind a router, or behind several replicas of one.

    Attributes
    ----------
    engines : tuple of Engine
        May differ (mixed hardware). Their ranks are the workers, in this order.
    capacity : int or None
        Capacity that a worker registers, in sequences; None: as many as its engine runs.
    prefill : Delay
        From arrival to the prefill's end, when requests are placed unless `place_at` says earlier.
    transfer : Delay
        From the placement, when the worker is booked, until it has the KV cache.
    place_at : float
        Share of the prompt, 0 to 1, that is prefilled when the request is placed; the chunk that
        reaches it counts whole. What is prefilled is transferred meanwhile.
    chunk_tokens : int
        Tokens per prefill chunk: its experts are known, and its KV can be sent, at its end.
    report_interval_s : float
        How often workers report their loads.
    report_noise : float
        Error of reported step times: the standard deviation of their logarithm.
    report_delay_s : float
        From a measurement until its report arrives.
    report_loss : float
        Share of reports that are lost.
    release_delay_s : float
        From a request's end until its release arrives.
    decode_counts_share : float
        Share of releases that carry the decode's counts.
    relief : float
        The largest factor on the load of a worker that is slower than its peers; 1 for none.
    replicas : int
        Routers that place requests in turn; see `Replicas`.
    view_delay_s : float
        Until the other replicas know what one replica did.
    plain : bool
        The engines prefill what they decode: requests are placed on arrival, by the experts of
        others of their domain, which is their tenant; then comes `prefill`, and no `transfer`.
    move_pause : Delay or None
        From a moved request's last token on one worker until it can continue on another, for
        policies that move requests; None: no moves.
    """

    engines: tuple[Engine, ...]
    _: KW_ONLY
    capacity: int | None = None
    prefill: Delay = Delay()
    transfer: Delay = Delay()
    place_at: float = 1.0
    chunk_tokens: int = 2_048
    report_interval_s: float = 1.0
    report_noise: float = 0.0
    report_delay_s: float = 0.0
    report_loss: float = 0.0
    release_delay_s: float = 0.0
    decode_counts_share: float = 1.0
    relief: float = StandingLimits().relief
    replicas: int = 1
    view_delay_s: float = 0.0
    plain: bool = False
    move_pause: Delay | None = None

    def __post_init__(self) -> None:
        if not self.engines:
            raise ValueError("a deployment needs at least one engine")
        if not 0 < self.place_at <= 1:
            raise ValueError(f"place_at must be above 0 and at most 1, not {self.place_at}")
        if self.plain and (self.place_at < 1 or self.transfer != Delay()):
            raise ValueError("engines that also prefill have no place_at and no transfer")
        if self.chunk_tokens < 1:
            raise ValueError(f"chunk_tokens must be positive, not {self.chunk_tokens}")
        if not 0 < self.report_interval_s < float("inf"):
            raise ValueError(f"report_interval_s must be positive, not {self.report_interval_s}")
        if not 0 <= self.report_noise < 1:
            raise ValueError(f"report_noise must be from 0 to below 1, not {self.report_noise}")
        for name in ("report_loss", "decode_counts_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        if not 1 <= self.relief < float("inf"):
            raise ValueError(f"relief must be finite and at least 1, not {self.relief}")
        if self.replicas < 1:
            raise ValueError(f"replicas must be at least 1, not {self.replicas}")
        for name in ("report_delay_s", "release_delay_s", "view_delay_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")

    @classmethod
    def in_turn(cls, kinds: Sequence[Engine], workers: int, **around: Any) -> "Deployment":
        """A deployment of `workers` ranks, whose engines take the kinds in turn."""
        engines = workers // kinds[0].ranks
        return cls(tuple(kinds[i % len(kinds)] for i in range(engines)), **around)

    def seen(self, prompt_tokens: int) -> int:
        """Tokens of a prompt that are prefilled when the request is placed."""
        chunks = math.ceil(self.place_at * prompt_tokens / self.chunk_tokens)
        return min(prompt_tokens, chunks * self.chunk_tokens)

    def kv_ready(
        self, placed_s: float, prefilled_s: float, prompt_tokens: int, cached_tokens: int = 0
    ) -> float:
        """When the worker has the KV cache; the last chunk's can be sent only after the prefill.

        The worker already has `cached_tokens` of the prompt.
        """
        moved = prompt_tokens - cached_tokens
        last = min((prompt_tokens - 1) % self.chunk_tokens + 1, moved)
        return max(placed_s + self.transfer.of(moved), prefilled_s + self.transfer.of(last))

    @property
    def workers(self) -> int:
        """Ranks of all engines."""
        return sum(engine.ranks for engine in self.engines)
