"""Counts of what the scheduler's side has done, for vLLM's metrics."""

import threading
from collections import Counter
from typing import Any

from eldr_vllm.scheduler.capture_state import CaptureState


class Tally:
    """Added to by any thread, taken by the scheduler's.

    Parameters
    ----------
    capture : CaptureState

    Attributes
    ----------
    layers : int
        MoE layers captured; 0 if none are, or if not yet known.
    """

    def __init__(self, capture: CaptureState) -> None:
        self._capture = capture
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._told: dict[str, Any] = {}
        self.layers = 0

    def add(self, name: str) -> None:
        """Count one more of `stats.COUNTERS`."""
        with self._lock:
            self._counts[name] += 1

    def news(self) -> dict[str, Any]:
        """What has changed since the last call: the state, the layers, counts to add."""
        status = self._capture.status()
        with self._lock:
            totals: dict[str, Any] = dict(self._counts)
        totals["prompt_tokens_known"] = status.known_tokens
        totals["prompt_tokens_unknown"] = status.unknown_tokens
        told = self._told
        news = {name: total - told.get(name, 0) for name, total in totals.items()}
        news = {name: more for name, more in news.items() if more}
        now = {"state": status.state, "layers": 0 if self._capture.stopped else self.layers}
        news.update({name: value for name, value in now.items() if told.get(name) != value})
        self._told = {**totals, **now}
        return news
