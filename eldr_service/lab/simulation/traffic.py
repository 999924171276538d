"""Traffic: arrival times and lengths of requests, the same for every policy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eldr_service.lab.simulation.arrivals import bursty_arrivals, poisson_arrivals
from eldr_service.lab.simulation.traces import Trace


@dataclass(frozen=True, slots=True, eq=False)
class Prefixes:
    """Common prefixes of prompts.

    Attributes
    ----------
    hashes : sequence of tuple of int
        Hashes of each request's prompt; hash k covers its first k + 1 blocks.
    block_tokens : int
        Tokens of a block.
    conversations : ndarray of int64, shape [n]
        Requests of one conversation take recordings of one domain.
    """

    hashes: Sequence[tuple[int, ...]]
    block_tokens: int
    conversations: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """Requests in order of arrival.

    Attributes
    ----------
    times_s : ndarray of float64, shape [n]
    prompt_tokens, output_tokens : ndarray of int64, shape [n], or None
        None: as long as the recording that stands for the request.
    prefixes : Prefixes or None
        Common prefixes of prompts; None: none.
    """

    times_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64] | None = None
    output_tokens: NDArray[np.int64] | None = None
    prefixes: Prefixes | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """How requests are drawn; a seed always gives the same ones.

    Attributes
    ----------
    duration_s : float
        Duration of the arrivals; each request is served to its end.
    rate_per_s : float or None
        Mean rate of arrivals. A trace is stretched to it; None keeps the trace's own.
    trace : Trace or None
        None: a Poisson process. `duration_s` of the trace is taken from a random time on, wrapping
        around at its end, with its prompt and output lengths.
    output_tokens : int, Trace or None
        Output of every request, or drawn from a trace. None: as in `trace`, else as recorded.
    gap_cv : float
        Without a trace: coefficient of variation of the gaps, see `bursty_arrivals`.

    Raises
    ------
    ValueError
        A number is not positive, or neither rate nor trace is given.
    """

    duration_s: float
    rate_per_s: float | None = None
    trace: Trace | None = None
    output_tokens: int | Trace | None = None
    gap_cv: float = 1.0

    def __post_init__(self) -> None:
        for name in ("duration_s", "rate_per_s", "gap_cv", "output_tokens"):
            value = getattr(self, name)
            if isinstance(value, (int, float)) and not 0 < value < np.inf:
                raise ValueError(f"{name} must be positive and finite, not {value}")
        if self.rate_per_s is None and self.trace is None:
            raise ValueError("Poisson arrivals need a rate")

    def draw(self, seed: int) -> Requests:
        """Draw requests; ValueError if none arrives within the duration."""
        if self.trace is None:
            assert self.rate_per_s is not None
            drawn = Requests(self._arrivals(self.rate_per_s, seed))
        else:
            drawn = self._stretch(self.trace, seed)
        n = len(drawn.times_s)
        if n == 0:
            raise ValueError(f"no request arrives within {self.duration_s:g} s")
        output = drawn.output_tokens
        if isinstance(self.output_tokens, Trace):
            rng = np.random.default_rng([seed, 1])
            output = rng.choice(self.output_tokens.output_tokens, n)
        elif self.output_tokens is not None:
            output = np.full(n, self.output_tokens)
        return Requests(drawn.times_s, drawn.prompt_tokens, output)

    def _arrivals(self, rate_per_s: float, seed: int) -> NDArray[np.float64]:
        if self.gap_cv == 1:
            return poisson_arrivals(rate_per_s, self.duration_s, seed)
        return bursty_arrivals(rate_per_s, self.duration_s, self.gap_cv, seed)

    def _stretch(self, trace: Trace, seed: int) -> Requests:
        scale = trace.rate_per_s / self.rate_per_s if self.rate_per_s else 1.0
        period = len(trace.times_s) / trace.rate_per_s * scale  # a mean gap follows the last
        start = np.random.default_rng(seed).uniform(0.0, period)
        laps = int((start + self.duration_s) // period) + 1
        times = np.concatenate([trace.times_s * scale + lap * period for lap in range(laps)])
        chosen = np.flatnonzero((times >= start) & (times < start + self.duration_s))
        which = chosen % len(trace.times_s)
        return Requests(
            times[chosen] - start, trace.prompt_tokens[which], trace.output_tokens[which]
        )
