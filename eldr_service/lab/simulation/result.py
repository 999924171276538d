"""The result of one policy on a workload."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from eldr_service.lab.simulation.pool_statistics import load_imbalance

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """One policy's run; arrays have an entry per request, by arrival. Times in virtual seconds.

    Attributes
    ----------
    workers : int
    arrival_s, placed_s, first_token_s, end_s : ndarray of float64
        `placed_s` is when the request was booked on its worker.
    worker, recording, tokens : ndarray of int64
        `recording` is the recorded request that stood for it; `tokens` its output tokens.
    prompt_tokens, cached_tokens : ndarray of int64
        The worker already had `cached_tokens`, which were not transferred.
    active_experts : float
        Distinct experts per layer of the step that generated a token, mean over tokens.
    reasons : Counter of str
        Placements by reason; see `core.decision.Reason`.
    copies : int
        Requests that arrived while every recording was in flight, and so reused one.
    refused : int
        Times that a request found every worker at capacity and was retried.
    decided_again : int
        Requests decided again, as others had booked more on the worker than the view knew of.
    moves : int
        Running requests moved to another worker.
    """

    workers: int
    arrival_s: NDArray[np.float64]
    placed_s: NDArray[np.float64]
    first_token_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    worker: NDArray[np.int64]
    recording: NDArray[np.int64]
    tokens: NDArray[np.int64]
    prompt_tokens: NDArray[np.int64]
    cached_tokens: NDArray[np.int64]
    active_experts: float
    reasons: Counter[str]
    copies: int
    refused: int
    decided_again: int = 0
    moves: int = 0

    @cached_property
    def tpot_s(self) -> NDArray[np.float64]:
        """(end - first token) / (tokens - 1) of each request with two tokens or more."""
        several = self.tokens > 1
        times = (self.end_s - self.first_token_s)[several] / (self.tokens[several] - 1)
        return np.asarray(times, np.float64)

    @cached_property
    def step_s(self) -> float:
        """Duration of a token's step, mean over all tokens but each request's first."""
        steps = int((self.tokens - 1).sum())
        return float((self.end_s - self.first_token_s).sum()) / steps if steps else float("nan")

    @cached_property
    def ttft_s(self) -> NDArray[np.float64]:
        """From arrival to the end of the first decode step."""
        return self.first_token_s - self.arrival_s

    @cached_property
    def load_imbalance(self) -> float:
        """Most requests booked on a worker over the mean, until the last arrival."""
        until = float(self.arrival_s[-1])
        return load_imbalance(self.placed_s, self.end_s, self.worker, self.workers, until)

    @cached_property
    def in_flight(self) -> float:
        """Requests booked on a worker, mean over workers and time until the last arrival."""
        until = float(self.arrival_s[-1])
        spans = np.minimum(self.end_s, until) - np.minimum(self.placed_s, until)
        return float(spans.sum()) / (until * self.workers) if until else float("nan")

    def sent(self, groups: NDArray[np.str_]) -> dict[str, list[int]]:
        """Requests by group and worker; groups [recorded requests] names their groups."""
        group = groups[self.recording]
        return {
            str(name): np.bincount(self.worker[group == name], minlength=self.workers).tolist()
            for name in np.unique(group)
        }

    def figures(self) -> dict[str, float]:
        """All figures by name; times in ms, NaN if undefined."""
        return {
            **_distribution("tpot_ms", self.tpot_s),
            **_distribution("ttft_ms", self.ttft_s),
            "step_ms": self.step_s * 1e3,
            "active_experts": self.active_experts,
            "load_imbalance": self.load_imbalance,
            "in_flight": self.in_flight,
            "requests": len(self.tokens),
            "tokens": int(self.tokens.sum()),
            "copies": self.copies,
            "refused": self.refused,
            "decided_again": self.decided_again,
            "cached_share": float(self.cached_tokens.sum() / self.prompt_tokens.sum()),
            "moves": self.moves,
        }


def _distribution(name: str, seconds: NDArray[np.float64]) -> dict[str, float]:
    if not len(seconds):
        return {f"{name}.{part}": float("nan") for part in ("p50", "p95", "p99", "mean")}
    found = np.percentile(seconds, PERCENTILES) * 1e3
    named = {f"{name}.p{p}": float(v) for p, v in zip(PERCENTILES, found, strict=True)}
    return {**named, f"{name}.mean": float(seconds.mean() * 1e3)}
