"""Prometheus metrics: counters of what happened, and gauges made from the state at each scrape."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from eldr_service.core.capture import CaptureStatus

# Decisions take tens of microseconds, calls hundreds.
DECISION_BUCKETS = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 1e-1, 1.0)
RPC_BUCKETS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 5e-1, 1.0, 10.0)
PAUSE_BUCKETS = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 5e-1, 1.0)
WAIT_BUCKETS = (1e-3, 1e-2, 5e-2, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)
# Shown even when no worker is in them, so that an alert on 0 READY workers has something to read.
WORKER_STATES = ("JOINING", "READY", "DRAINING")


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker, as the metrics show it.

    Attributes
    ----------
    worker_id, state : str
    load : float
        Booked and foreign sequences / capacity: 1 is full.
    booked_sequences : int
    capture : CaptureStatus or None
        None where it has said nothing of it.
    avoidance : str
        Why others are preferred to it, or NONE.
    relief : float
        The factor on its load, 1 for none.
    pace : float
        Its steps' time relative to its peers'; 0 where it is not known.
    """

    worker_id: str
    state: str
    load: float
    booked_sequences: int
    capture: CaptureStatus | None = None
    avoidance: str = "NONE"
    relief: float = 1.0
    pace: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model, as the metrics show it; `partition_version` is 0 where none is active.

    `partition_drift` is None where it is not known.
    """

    model: str
    workers: Sequence[WorkerState] = ()
    _: KW_ONLY
    leases: int = 0
    waiting: int = 0
    partition_version: int = 0
    partition_drift: float | None = None
    window_signatures: int = 0


@dataclass(frozen=True, slots=True)
class RouterState:
    """All that gauges show, at one moment."""

    models: Sequence[ModelState] = field(default_factory=tuple)
    signatures_held: int = 0
    signature_bytes: int = 0


class Metrics:
    """The daemon's metrics, in a registry of their own. docs/metrics.md tells what each means.

    Parameters
    ----------
    state : callable
        Called at each scrape. Gauges are made from what it returns then, so they cannot drift from
        the truth, and those of a worker that is gone are gone with it.
    """

    def __init__(self, state: Callable[[], RouterState]) -> None:
        self.registry = registry = CollectorRegistry()
        self.decision_seconds = Histogram(
            "eldr_decision_seconds",
            "Time to choose and book a worker, without the call around it",
            buckets=DECISION_BUCKETS,
            registry=registry,
        )
        self.rpc_seconds = Histogram(
            "eldr_rpc_seconds",
            "Time of a unary call in the daemon",
            ["method"],
            buckets=RPC_BUCKETS,
            registry=registry,
        )
        self.pause_seconds = Histogram(
            "eldr_loop_pause_seconds",
            "By how much each beat of the event loop, a hundred per second, was late",
            buckets=PAUSE_BUCKETS,
            registry=registry,
        )
        self.wait_seconds = Histogram(
            "eldr_wait_seconds",
            "Time that a call waited for a place where every eligible worker was full",
            buckets=WAIT_BUCKETS,
            registry=registry,
        )
        self.placements = Counter(
            "eldr_placements",
            "Requests booked",
            ["model", "policy", "reason", "worker"],
            registry=registry,
        )
        self.releases = Counter(
            "eldr_releases",
            "Bookings that their caller released",
            ["model", "outcome"],
            registry=registry,
        )
        self.bookings_ended = Counter(
            "eldr_bookings_ended", "Bookings that ended", ["model", "how"], registry=registry
        )
        self.signatures_dropped = Counter(
            "eldr_signatures_dropped",
            "Signatures dropped before their placement was released",
            ["why"],
            registry=registry,
        )
        self.refits = Counter(
            "eldr_refits", "Refits of a partition", ["model", "outcome"], registry=registry
        )
        self.errors = Counter(
            "eldr_errors",
            "Calls and stream messages refused",
            ["method", "code"],
            registry=registry,
        )
        self.decision_log_lost = Counter(
            "eldr_decision_log_lost", "Events that the decision log misses", registry=registry
        )
        self.decision_log_bytes = Counter(
            "eldr_decision_log_bytes", "Bytes written to the decision log", registry=registry
        )
        self.bookings_durable = Gauge(
            "eldr_bookings_durable",
            "1 while acknowledged bookings survive the daemon",
            registry=registry,
        )
        self.state_failures = Counter(
            "eldr_state_failures", "Attempts to write bookings that failed", registry=registry
        )
        self.decisions_again = Counter(
            "eldr_decisions_again",
            "Requests decided again, as another replica was first",
            ["why"],
            registry=registry,
        )
        self.discovery_up = Gauge(
            "eldr_discovery_up",
            "1 while a source of workers can be read",
            ["source"],
            registry=registry,
        )
        self.discovery_workers = Gauge(
            "eldr_discovery_workers",
            "Workers that a source named last",
            ["source"],
            registry=registry,
        )
        self.discovery_failures = Counter(
            "eldr_discovery_failures",
            "Times that a source of workers could not be read",
            ["source"],
            registry=registry,
        )
        self._placements: dict[tuple[str, str, str, str], Counter] = {}
        self._rpc_seconds: dict[str, Histogram] = {}
        registry.register(_StateCollector(state))
        ProcessCollector(registry=registry)

    def durable(self, is_written: bool) -> None:
        """Bookings were written, or could not be."""
        self.bookings_durable.set(is_written)
        if not is_written:
            self.state_failures.inc()

    def decided_again(self, why: str) -> None:
        """A request was decided again, as another replica was first."""
        self.decisions_again.labels(why).inc()

    def discovered(self, source: str, is_read: bool, workers: int) -> None:
        """A source of workers was read, or could not be; it named so many workers last."""
        self.discovery_up.labels(source).set(is_read)
        self.discovery_workers.labels(source).set(workers)
        failures = self.discovery_failures.labels(source)
        if not is_read:
            failures.inc()

    def placed(self, model: str, policy: str, reason: str, worker: str) -> None:
        """Count a booking."""
        names = (model, policy, reason, worker)
        series = self._placements.get(names)
        if series is None:  # looking one up in the metric takes as long as a decision's filters
            series = self._placements[names] = self.placements.labels(*names)
        series.inc()

    def answered(self, method: str, seconds: float) -> None:
        """Note the time of a unary call."""
        series = self._rpc_seconds.get(method)
        if series is None:
            series = self._rpc_seconds[method] = self.rpc_seconds.labels(method)
        series.observe(seconds)

    def forget_worker(self, model: str, worker_id: str) -> None:
        """Drop the series that name a worker, when it has been removed."""
        self.placements.remove_by_labels({"model": model, "worker": worker_id})
        for names in [n for n in self._placements if (n[0], n[3]) == (model, worker_id)]:
            del self._placements[names]


class _StateCollector(Collector):
    def __init__(self, state: Callable[[], RouterState]) -> None:
        self._state = state

    def describe(self) -> Iterable[Metric]:
        """Say what there will be, without asking for a state that may not be there yet."""
        return _families(RouterState())

    def collect(self) -> Iterator[Metric]:
        yield from _families(self._state())


def _families(state: RouterState) -> list[Metric]:
    load = GaugeMetricFamily(
        "eldr_worker_load",
        "Booked and foreign sequences / capacity: 1 is full",
        labels=["model", "worker"],
    )
    booked = GaugeMetricFamily(
        "eldr_worker_booked_sequences", "Sequences booked on a worker", labels=["model", "worker"]
    )
    capture = GaugeMetricFamily(
        "eldr_worker_capture",
        "1 for how a worker's capture of routed experts stands",
        labels=["model", "worker", "state"],
    )
    tokens = CounterMetricFamily(
        "eldr_worker_prompt_tokens",
        "Prompt tokens of a worker, by whether their experts were known",
        labels=["model", "worker", "experts"],
    )
    avoided = GaugeMetricFamily(
        "eldr_worker_avoided",
        "1 where others are preferred to a worker",
        labels=["model", "worker", "why"],
    )
    relief = GaugeMetricFamily(
        "eldr_worker_relief", "Factor on the load of a slow worker", labels=["model", "worker"]
    )
    pace = GaugeMetricFamily(
        "eldr_worker_pace",
        "Time of a worker's steps relative to its peers': 1 as long",
        labels=["model", "worker"],
    )
    workers = GaugeMetricFamily("eldr_workers", "Workers", labels=["model", "state"])
    leases = GaugeMetricFamily("eldr_leases", "Bookings alive", labels=["model"])
    waiting = GaugeMetricFamily(
        "eldr_waiting_calls", "Calls that wait for a place", labels=["model"]
    )
    version = GaugeMetricFamily(
        "eldr_partition_version", "Version of the active partition, 0 for none", labels=["model"]
    )
    drift = GaugeMetricFamily(
        "eldr_partition_drift",
        "Distance of recent signatures to the nearest centroid, relative to that at the fit",
        labels=["model"],
    )
    window = GaugeMetricFamily(
        "eldr_window_signatures", "Recent signatures kept to fit on", labels=["model"]
    )
    held = GaugeMetricFamily(
        "eldr_signatures_held", "Signatures in memory", value=state.signatures_held
    )
    size = GaugeMetricFamily(
        "eldr_signature_bytes", "Memory of the signatures held", value=state.signature_bytes
    )
    for model in state.models:
        leases.add_metric([model.model], model.leases)
        waiting.add_metric([model.model], model.waiting)
        version.add_metric([model.model], model.partition_version)
        window.add_metric([model.model], model.window_signatures)
        if model.partition_drift is not None:
            drift.add_metric([model.model], model.partition_drift)
        states = dict.fromkeys(WORKER_STATES, 0)
        for worker in model.workers:
            labels = [model.model, worker.worker_id]
            load.add_metric(labels, worker.load)
            booked.add_metric(labels, worker.booked_sequences)
            if said := worker.capture:
                capture.add_metric([*labels, said.state.name], 1)
                tokens.add_metric([*labels, "known"], said.known_tokens)
                tokens.add_metric([*labels, "unknown"], said.unknown_tokens)
            if worker.avoidance != "NONE":
                avoided.add_metric([*labels, worker.avoidance], 1)
            if worker.relief > 1:
                relief.add_metric(labels, worker.relief)
            if worker.pace:
                pace.add_metric(labels, worker.pace)
            states[worker.state] = states.get(worker.state, 0) + 1
        for name, count in states.items():
            workers.add_metric([model.model, name], count)
    of_workers = [load, booked, capture, tokens, avoided, relief, pace, workers]
    return [*of_workers, leases, waiting, version, drift, window, held, size]
