"""Figures of a policy over blocks, with bootstrap intervals.

A block is driven under every policy with the same requests, so blocks are drawn whole: what made
one slow made it slow for all. Each starts with what the previous one left in flight, so they are
drawn in runs (the circular block bootstrap).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SAMPLES = 1000
RUN = 4
"""Consecutive blocks that are drawn together: an answer takes one or two."""


@dataclass(slots=True, kw_only=True)
class Segment:
    """One policy's results on one block; times in seconds."""

    # The block's wall-clock start and end.
    since: float = 0.0
    until: float = 0.0
    tpot: list[float] = field(default_factory=list)
    ttft: list[float] = field(default_factory=list)
    # Requests with tokens, those cut off by the block's end before their first, and failed ones.
    answered: int = 0
    unanswered: int = 0
    failed: int = 0
    # Bookings that remained long after the last answer.
    left: int = 0
    # Sums over reports of (active experts x tokens, tokens), over samples of (max / mean, 1) and
    # over placements of (seconds, 1).
    experts: tuple[float, float] = (0.0, 0.0)
    steps: tuple[float, float] = (0.0, 0.0)
    imbalance: tuple[float, float] = (0.0, 0.0)
    route: tuple[float, float] = (0.0, 0.0)
    # Tokens of answers, and the seconds in which they came.
    tokens: tuple[float, float] = (0.0, 0.0)
    reasons: dict[str, int] = field(default_factory=dict)
    processors: float = 0.0

    def document(self) -> dict[str, float]:
        """Its time, and the active experts that workers reported in its measured part."""
        total, weight = self.experts
        experts = total / weight if weight else math.nan
        return {"since": self.since, "until": self.until, "active_experts": experts}


@dataclass(frozen=True, slots=True)
class Metric:
    """A row of the report: a segment's part of it, and how parts of several segments join."""

    name: str
    unit: str
    part: Callable[[Segment], NDArray[np.float64]]
    join: Callable[[Sequence[NDArray[np.float64]]], float]
    digits: int = 1


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


def _percentile(name: str, unit: str, field: str, percent: float, digits: int = 1) -> Metric:
    """A percentile over the requests of all segments together, in milliseconds."""

    def join(parts: Sequence[NDArray[np.float64]]) -> float:
        return float(np.percentile(np.concatenate(parts), percent))

    return Metric(name, unit, lambda s: np.array(getattr(s, field)) * 1e3, join, digits)


def _mean(name: str, unit: str, field: str, scale: float = 1.0, digits: int = 2) -> Metric:
    """A mean: the sums of all segments over their weights."""

    def join(parts: Sequence[NDArray[np.float64]]) -> float:
        total, weight = np.sum(parts, axis=0)
        return float(total / weight) if weight else float("nan")

    return Metric(name, unit, lambda s: np.array(getattr(s, field)) * (scale, 1.0), join, digits)


METRICS = (
    _percentile("TPOT p50", "ms", "tpot", 50),
    _percentile("TPOT p95", "ms", "tpot", 95),
    _percentile("TPOT p99", "ms", "tpot", 99),
    _percentile("TTFT p50", "ms", "ttft", 50, digits=0),
    _mean("active experts", "a token", "experts"),
    _mean("step time", "ms", "steps", scale=1e3, digits=1),
    _mean("output tokens", "a second", "tokens", digits=1),
    _mean("load imbalance", "most / mean", "imbalance"),
    _mean("router time", "ms", "route", scale=1e3),
)


def bootstrap(
    blocks: Sequence[dict[str, Segment]], seed: int = 0, samples: int = SAMPLES
) -> tuple[dict[str, dict[str, Estimate]], dict[str, dict[tuple[str, str], Estimate]]]:
    """Each metric of each policy, and relative changes between all pairs of policies."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(len(blocks), size=(samples, -(-len(blocks) // RUN), 1))
    runs = (starts + np.arange(RUN)) % len(blocks)
    draws = runs.reshape(samples, -1)[:, : len(blocks)].tolist()
    policies = tuple(blocks[0])
    values: dict[str, dict[str, Estimate]] = {}
    changes: dict[str, dict[tuple[str, str], Estimate]] = {}
    for metric in METRICS:
        whole, drawn = {}, {}
        for policy in policies:
            parts = [metric.part(block[policy]) for block in blocks]
            whole[policy] = metric.join(parts)
            drawn[policy] = np.array([metric.join([parts[i] for i in draw]) for draw in draws])
        values[metric.name] = {p: _estimate(whole[p], drawn[p]) for p in policies}
        changes[metric.name] = {
            (p, q): _estimate(whole[p] / whole[q] - 1, drawn[p] / drawn[q] - 1)
            for p in policies
            for q in policies
            if p != q
        }
    return values, changes


def _estimate(value: float, drawn: np.ndarray) -> Estimate:
    low, high = np.nanpercentile(drawn, [2.5, 97.5]) if np.isfinite(drawn).any() else (value, value)
    return Estimate(value, float(low), float(high))
