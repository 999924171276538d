"""The shim's metrics for vLLM's /metrics, added to the wrapped connector's.

The workers' and the scheduler's side each give an `EldrStats` per step. vLLM adds them up, passes
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
# Name, description, label, label values; a count is passed as NAME or NAME_VALUE.
COUNTERS = (
    (
        "prompt_tokens",
        "Prompt tokens, by whether their experts were known",
        "experts",
        ("known", "unknown"),
    ),
    (
        "signatures",
        "Signatures that the daemon took, or that it did not get in full",
        "outcome",
        ("sent", "failed"),
    ),
    (
        "placements",
        "Placements asked for with a signature, by whether the daemon gave one",
        "outcome",
        ("received", "fallback"),
    ),
    ("messages_dropped", "Messages dropped because the daemon was too slow", "", ("",)),
)


@dataclass
class EldrStats(KVConnectorStats):
    """What is new since the last step.

    Attributes
    ----------
    data : dict
        Ours: `state` and `layers` are values, everything else is a count to add.
    inner : KVConnectorStats or None
        The wrapped connector's.
    """

    inner: KVConnectorStats | None = field(default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, from which `EldrConnector.build_kv_connector_stats` rebuilds it."""
        return {"inner": self.inner.to_dict() if self.inner else None, "eldr": self.data}

    def reset(self) -> None:
        """Start over with nothing new."""
        self.data = {}
        if self.inner:
            self.inner.reset()

    def aggregate(self, other: KVConnectorStats) -> "EldrStats":
        """Merge both; `other` is later, and may be the wrapped connector's alone."""
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
        """Whether nothing is new."""
        return not self.data and (self.inner is None or self.inner.is_empty())


class EldrPromMetrics(KVConnectorPromMetrics):
    """The wrapped connector's metrics and ours; a failure of ours does not affect theirs.

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
        """Add a step's news, as given by `EldrStats.to_dict`."""
        inner = transfer_stats_data["inner"]
        if inner is not None and self._inner is not None:
            self._inner.observe(inner, engine_idx)
        self._guard.run(self._observe, transfer_stats_data["eldr"], engine_idx)

    def _register(self) -> None:
        capture = self._gauge(
            "capture", "1 for the state of the capture of routed experts", ["state"]
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
