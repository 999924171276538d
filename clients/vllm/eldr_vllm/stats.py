"""What the shim tells vLLM's own /metrics, beside what the wrapped connector tells.

The workers' and the scheduler's side each give an `EldrStats` per step, vLLM adds them up, carries
them to its HTTP server as plain values, and has `EldrPromMetrics` observe them there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Counter, Gauge
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (
    KVConnectorPromMetrics,
    KVConnectorStats,
)

from eldr_vllm.guard import Guard

STATES = ("PROBING", "CAPTURING", "STOPPED")
# Name, description, label and the label's values; a count is told as NAME or as NAME_VALUE.
COUNTERS = (
    (
        "prompt_tokens",
        "Prompt tokens, by whether their experts were known",
        "experts",
        ("known", "unknown"),
    ),
    (
        "signatures",
        "Signatures of prompts that the daemon took, or that it was not told in whole",
        "outcome",
        ("sent", "failed"),
    ),
    (
        "placements",
        "Placements asked for with a signature, by whether the daemon gave one",
        "outcome",
        ("received", "fallback"),
    ),
    ("messages_dropped", "Messages dropped, as the daemon was too slow", "", ("",)),
)


@dataclass
class EldrStats(KVConnectorStats):
    """What was new in a step.

    Attributes
    ----------
    data : dict
        Ours: `state` and `layers` as they are, everything else is a count to add.
    inner : KVConnectorStats or None
        The wrapped connector's.
    """

    inner: KVConnectorStats | None = field(default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, from which `EldrConnector.build_kv_connector_stats` makes it again."""
        return {"inner": self.inner.to_dict() if self.inner else None, "eldr": self.data}

    def reset(self) -> None:
        """Nothing is new."""
        self.data = {}
        if self.inner:
            self.inner.reset()

    def aggregate(self, other: KVConnectorStats) -> "EldrStats":
        """Both; `other` is the later one, and may be the wrapped connector's alone."""
        theirs = other.inner if isinstance(other, EldrStats) else other
        if self.inner is None or theirs is None:
            self.inner = self.inner or theirs
        else:
            self.inner = self.inner.aggregate(theirs)
        if isinstance(other, EldrStats):
            for name, value in other.data.items():
                adds = name not in ("state", "layers")
                self.data[name] = self.data.get(name, 0) + value if adds else value
        return self

    def reduce(self) -> dict[str, int | float]:
        """For vLLM's log."""
        inner = self.inner.reduce() if self.inner and not self.inner.is_empty() else {}
        return {**inner, **{f"eldr_{name}": value for name, value in self.data.items()}}

    def is_empty(self) -> bool:
        """Nothing is new."""
        return not self.data and (self.inner is None or self.inner.is_empty())


class EldrPromMetrics(KVConnectorPromMetrics):
    """The wrapped connector's metrics, and ours; a failure of ours leaves theirs alone.

    Parameters
    ----------
    inner : KVConnectorPromMetrics or None
    vllm_config, metric_types, labelnames, per_engine_labelvalues
        As vLLM gives them.
    """

    def __init__(
        self,
        inner: KVConnectorPromMetrics | None,
        vllm_config: VllmConfig,
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._inner = inner
        self._guard = Guard("metrics")
        self._states: dict[int, dict[str, Gauge]] = {}
        self._layers: dict[int, Gauge] = {}
        self._counters: dict[int, dict[str, Counter]] = {}
        self._guard.run(self._register)

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        """Take in what was new in a step, as `EldrStats.to_dict` gives it."""
        inner = transfer_stats_data["inner"]
        if inner is not None and self._inner is not None:
            self._inner.observe(inner, engine_idx)
        self._guard.run(self._observe, transfer_stats_data["eldr"], engine_idx)

    def _register(self) -> None:
        capture = self._gauge(
            "capture", "1 for how the capture of routed experts stands", ["state"]
        )
        layers = self._gauge("captured_layers", "MoE layers whose experts are captured", [])
        counters = [
            self._counter_cls(
                name=f"eldr_vllm_{name}",
                documentation=text,
                labelnames=self._labelnames + [label] * bool(label),
            )
            for name, text, label, _ in COUNTERS
        ]
        for engine, of_engine in self.per_engine_labelvalues.items():
            self._states[engine] = {state: capture.labels(*of_engine, state) for state in STATES}
            self._layers[engine] = layers.labels(*of_engine)
            self._counters[engine] = {
                f"{name}_{value}" if value else name: counter.labels(
                    *of_engine, *([value] if value else [])
                )
                for (name, _, _, values), counter in zip(COUNTERS, counters, strict=True)
                for value in values
            }

    def _gauge(self, name: str, text: str, labels: list[str]) -> Any:
        return self._gauge_cls(
            name=f"eldr_vllm_{name}",
            documentation=text,
            multiprocess_mode="mostrecent",
            labelnames=self._labelnames + labels,
        )

    def _observe(self, new: Mapping[str, Any], engine: int) -> None:
        for name, value in new.items():
            if name == "state":
                for state, gauge in self._states[engine].items():
                    gauge.set(state == value)
            elif name == "layers":
                self._layers[engine].set(value)
            else:
                self._counters[engine][name].inc(value)
