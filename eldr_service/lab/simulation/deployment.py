"""What is simulated around the engines: capacities, prefill, KV transfer, the routers."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from eldr_service.lab.simulation.engine import Engine
from eldr_service.routing.standing import StandingLimits


@dataclass(frozen=True, slots=True)
class Delay:
    """Seconds that something takes, by the prompt's length. Requests do not queue for it."""

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
    """Decode engines behind a router, or several that are one.

    Attributes
    ----------
    engines : tuple of Engine
        May differ: mixed hardware. Their ranks are the workers, in this order.
    capacity : int or None
        Sequences that a worker tells the router it takes; None: as many as its engine runs.
    prefill : Delay
        From arrival to the prefill's end, when requests are placed unless `place_at` says earlier.
    transfer : Delay
        From the placement, when the worker is booked, until the KV cache is on it.
    place_at : float
        Share of the prompt, 0 to 1, that the prefill has gone through when the request is placed;
        the chunk that reaches it counts whole. What it has gone through is transferred meanwhile.
    chunk_tokens : int
        Tokens of a prefill chunk: its experts are known, and its KV can be sent, when it has ended.
    report_interval_s : float
        How often workers report their loads.
    report_noise : float
        By how much reported step times are off: the standard deviation of their logarithm.
    report_delay_s : float
        From the moment that a report tells of until it is heard.
    report_loss : float
        Share of reports that are never heard.
    release_delay_s : float
        From a request's end until its release is heard.
    decode_counts_share : float
        Share of releases that say what the decode activated.
    relief : float
        The largest factor on the load of a worker that is slower than its peers; 1 for none.
    replicas : int
        Routers that place requests, by turns; see `Replicas`.
    view_delay_s : float
        Until the other replicas know what one did.
    plain : bool
        The engines prefill what they decode: requests are placed as they come, by what others of
        their domain used, which is their tenant; `prefill` follows, and no `transfer`.
    move_pause : Delay or None
        From a running request's last token on one worker until it may go on at another, for
        policies that move requests; None: none is moved.
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
            raise ValueError("a deployment needs one engine at least")
        if not 0 < self.place_at <= 1:
            raise ValueError(f"place_at must be above 0 and at most 1, not {self.place_at}")
        if self.plain and (self.place_at < 1 or self.transfer != Delay()):
            raise ValueError("engines that prefill for themselves have no place_at and no transfer")
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
            raise ValueError(f"relief must be finite and 1 at least, not {self.relief}")
        if self.replicas < 1:
            raise ValueError(f"replicas must be 1 at least, not {self.replicas}")
        for name in ("report_delay_s", "release_delay_s", "view_delay_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")

    @classmethod
    def in_turn(cls, kinds: Sequence[Engine], workers: int, **around: Any) -> "Deployment":
        """As many workers, a multiple of the ranks, of engines that take the kinds in turn."""
        engines = workers // kinds[0].ranks
        return cls(tuple(kinds[i % len(kinds)] for i in range(engines)), **around)

    def seen(self, prompt_tokens: int) -> int:
        """Tokens of a prompt that the prefill has gone through when the request is placed."""
        chunks = math.ceil(self.place_at * prompt_tokens / self.chunk_tokens)
        return min(prompt_tokens, chunks * self.chunk_tokens)

    def kv_ready(
        self, placed_s: float, prefilled_s: float, prompt_tokens: int, cached_tokens: int = 0
    ) -> float:
        """When the KV cache is there; that of the last chunk can only leave after the prefill.

        Of the prompt `cached_tokens` are there already.
        """
        moved = prompt_tokens - cached_tokens
        last = min((prompt_tokens - 1) % self.chunk_tokens + 1, moved)
        return max(placed_s + self.transfer.of(moved), prefilled_s + self.transfer.of(last))

    @property
    def workers(self) -> int:
        """Ranks of all engines."""
        return sum(engine.ranks for engine in self.engines)
