"""The proxy's metrics."""

from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
)

# They would add a series to each counter and histogram, of little use.
disable_created_metrics()  # type: ignore[no-untyped-call]

_FINE = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0)
_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)
_LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """One proxy's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        Info("eldr_proxy_build", "The proxy's version", registry=self.registry).info(
            {"version": version("eldr-vllm")}
        )
        self.requests = Counter(
            "eldr_proxy_requests",
            "Requests by endpoint and HTTP status; 499 is a client that has gone",
            ("endpoint", "status"),
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "eldr_proxy_requests_in_flight", "Requests being served", registry=self.registry
        )
        self.placements = Counter(
            "eldr_proxy_placements",
            "Decodes placed, by the placement's reason",
            ("reason",),
            registry=self.registry,
        )
        self.retries = Counter(
            "eldr_proxy_retries",
            "Engines that failed before the first token",
            ("role",),
            registry=self.registry,
        )
        self.discarded = Counter(
            "eldr_proxy_discarded_prefills",
            "Finished prefills whose KV no decode fetched",
            registry=self.registry,
        )
        self.moves = Counter(
            "eldr_proxy_moves",
            "Proposed moves of running requests: done, refused (they stay), or failed (they go on"
            " elsewhere)",
            ("outcome",),
            registry=self.registry,
        )
        self.move_pause_seconds = self._histogram(
            "move_pause", "From a moved answer's last event at one engine to its first after", _LONG
        )
        self.route_seconds = self._histogram("route", "Time to place a prefilled request", _FINE)
        self.prefill_seconds = self._histogram("prefill", "Time of a prefill, retries apart", _LONG)
        self.ttft_seconds = self._histogram(
            "time_to_first_token", "From a streamed request's arrival to its first event", _LONG
        )
        self.tpot_seconds = self._histogram(
            "time_per_output_token",
            "(end - first token) / (tokens - 1) of each streamed sequence, as the client sees it",
            _TOKEN,
        )

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"eldr_proxy_{name}_seconds", text, buckets=buckets, registry=self.registry
        )
