"""Prometheus metrics: counters of events, and gauges made from the state at each scrape."""

import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from platform import python_version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from eldr_service.kernels import target
from eldr_service.server.observability.gauges import RouterState, families
from eldr_service.server.observability.own_series import OTHER, OwnSeries

# They would add a series to each counter and histogram, of little use.
disable_created_metrics()  # type: ignore[no-untyped-call]

# Decisions take tens of microseconds, calls hundreds.
DECISION_BUCKETS = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 1e-1, 1.0)
RPC_BUCKETS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 5e-1, 1.0, 10.0)
PAUSE_BUCKETS = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 5e-1, 1.0)
WAIT_BUCKETS = (1e-3, 1e-2, 5e-2, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)


SLICE = 256
"""Series made in one step, less than half a millisecond."""
MOST_EXPIRED = 256
"""Most expired workers shown, the latest ones."""


def _built() -> dict[str, str]:
    """Versions of what runs here, for `eldr_build_info`."""
    return {
        "version": version("eldr-service"),
        "python": python_version(),
        "numba": version("numba"),
        "target": target(),
    }


class Metrics(Collector):
    """The daemon's metrics, in a registry of their own. docs/metrics.md describes each.

    Parameters
    ----------
    state : callable
        Called at each scrape. Gauges are made from its result, so they cannot drift from the
        truth, and those of a worker that is gone disappear with it.
    most_workers : int
        Workers with their own series.
    """

    def __init__(self, state: Callable[[], RouterState], most_workers: int = 1_024) -> None:
        self._state = state
        self.own_series = OwnSeries(most_workers)
        self._registry = registry = CollectorRegistry()
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
            "How late each beat of the event loop, a hundred per second, was",
            buckets=PAUSE_BUCKETS,
            registry=registry,
        )
        self.wait_seconds = Histogram(
            "eldr_wait_seconds",
            "Time that a call waited for a place while all eligible workers were full",
            buckets=WAIT_BUCKETS,
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
        self.placement_signatures = Counter(
            "eldr_placement_signatures",
            "Requests booked, by the source of their signature, or NONE",
            ["model", "signature"],
            registry=registry,
        )
        self.signatures_predicted = Counter(
            "eldr_signatures_predicted",
            "Requests booked by a predicted signature",
            ["model", "source"],
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
            "eldr_decision_log_lost", "Events missing from the decision log", registry=registry
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
            "Requests decided again because another replica was first",
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
            "Workers in the latest list of a source",
            ["source"],
            registry=registry,
        )
        self.discovery_failures = Counter(
            "eldr_discovery_failures",
            "Times that a source of workers could not be read",
            ["source"],
            registry=registry,
        )
        # By model, worker, policy and reason: plain counters, as there are thousands.
        self._placements: dict[tuple[str, str], dict[tuple[str, str], int]] = {}
        self._expired: dict[tuple[str, str], float] = {}  # when, by the wall clock
        self._rpc_seconds: dict[str, Histogram] = {}
        built = _built()
        Gauge(
            "eldr_build_info", "1 for the versions that run here", list(built), registry=registry
        ).labels(**built).set(1)
        ProcessCollector(registry=registry)

    def collect(self) -> Iterator[Metric]:
        """All metrics, at one moment."""
        return (metric for metric in self.parts() if metric)

    def parts(self) -> Iterator[Metric | None]:
        """All metrics, with None wherever other tasks may run."""
        yield from self._registry.collect()
        yield from self._placed()
        yield self._expiries()
        yield from families(self._state())

    def _placed(self) -> Iterator[Metric | None]:
        labels = ["model", "policy", "reason", "worker"]
        placements = CounterMetricFamily("eldr_placements", "Requests booked", labels=labels)
        before = 0
        for (model, worker), counted in list(self._placements.items()):
            for (policy, reason), number in counted.items():
                placements.add_metric([model, policy, reason, worker], number)
            if len(placements.samples) - before >= SLICE:
                before = len(placements.samples)
                yield None
        yield placements

    def _expiries(self) -> Metric:
        expired = GaugeMetricFamily(
            "eldr_worker_expired_timestamp_seconds",
            "When a worker was removed because it was silent; until it is back",
            labels=["model", "worker"],
        )
        for labels, at in self._expired.items():
            expired.add_metric(labels, at)
        return expired

    def durable(self, is_written: bool) -> None:
        """Bookings were written, or could not be."""
        self.bookings_durable.set(is_written)
        if not is_written:
            self.state_failures.inc()

    def decided_again(self, why: str) -> None:
        """A request was decided again, as another replica was first."""
        self.decisions_again.labels(why).inc()

    def discovered(self, source: str, is_read: bool, workers: int) -> None:
        """A source of workers was read, or could not be; `workers` are in its latest list."""
        self.discovery_up.labels(source).set(is_read)
        self.discovery_workers.labels(source).set(workers)
        failures = self.discovery_failures.labels(source)
        if not is_read:
            failures.inc()

    def placed(self, model: str, policy: str, reason: str, worker: str, signature: str) -> None:
        """Count a booking."""
        worker = self.own_series.label(model, worker)
        counted = self._placements.setdefault((model, worker), {})
        counted[policy, reason] = counted.get((policy, reason), 0) + 1
        self.placement_signatures.labels(model, signature).inc()

    def answered(self, method: str, seconds: float) -> None:
        """Record the duration of a unary call."""
        series = self._rpc_seconds.get(method)
        if series is None:
            series = self._rpc_seconds[method] = self.rpc_seconds.labels(method)
        series.observe(seconds)

    def worker_expired(self, model: str, worker_id: str) -> None:
        """A worker was silent for longer than its time to live, and was removed."""
        self._expired.pop((model, worker_id), None)
        if len(self._expired) >= MOST_EXPIRED:
            del self._expired[next(iter(self._expired))]
        self._expired[model, worker_id] = time.time()

    def worker_is_there(self, model: str, worker_id: str) -> None:
        """A worker has joined, possibly again."""
        self._expired.pop((model, worker_id), None)

    def forget_worker(self, model: str, worker_id: str) -> None:
        """Drop the series that name a worker, which was removed."""
        if worker_id != OTHER:
            self._placements.pop((model, worker_id), None)
        self.own_series.forget(model, worker_id)

    def forget_model(self, model: str) -> None:
        """Drop the series that name a model, which was forgotten."""
        self._placements.pop((model, OTHER), None)
        for counter in (
            self.releases,
            self.bookings_ended,
            self.placement_signatures,
            self.signatures_predicted,
            self.refits,
        ):
            counter.remove_by_labels({"model": model})
