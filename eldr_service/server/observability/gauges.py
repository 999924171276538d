"""Gauges, made from the state at each scrape, in parts between which other tasks may run."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from eldr_service.core.capture import CaptureState, CaptureStatus
from eldr_service.server.observability.estimates import Estimates, estimated
from eldr_service.server.observability.own_series import OTHER

SLICE = 32
"""Workers processed in one step, less than half a millisecond."""
# Shown even without workers in them, so that an alert on 0 READY workers has a value.
WORKER_STATES = ("JOINING", "READY", "DRAINING")
CAPTURE_STATES = (*(state.name for state in CaptureState), "UNSAID")


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker, as the metrics show it.

    Attributes
    ----------
    worker_id, state : str
        The id is `other` if it has no series of its own.
    load : float
        Booked and foreign sequences / capacity: 1 is full.
    booked_sequences : int
    capture : CaptureStatus or None
        None if it has not reported any.
    avoidance : str
        Why it is avoided, or NONE.
    relief : float
        The factor on its load; 1 for none.
    pace : float
        Its step time relative to its peers'; 0 if unknown.
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
    """One model, as the metrics show it; `partition_version` is 0 without an active one.

    `policy` is its name and its parameters as written. `workers` may read each worker only when it
    is reached. `partition_drift` is None if unknown.
    """

    model: str
    workers: Iterable[WorkerState] = ()
    _: KW_ONLY
    policy: tuple[str, str] = ("", "")
    leases: int = 0
    waiting: int = 0
    partition_version: int = 0
    partition_drift: float | None = None
    window_signatures: int = 0
    estimates: Estimates = field(default_factory=Estimates)


@dataclass(frozen=True, slots=True)
class RouterState:
    """All that gauges show, at one time."""

    models: Sequence[ModelState] = field(default_factory=tuple)
    signatures_held: int = 0
    signature_bytes: int = 0


def families(state: RouterState) -> Iterator[Metric | None]:
    """The gauges of a state, with None wherever other tasks may run."""
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
        "1 for the state of a worker's capture of routed experts",
        labels=["model", "worker", "state"],
    )
    tokens = CounterMetricFamily(
        "eldr_worker_prompt_tokens",
        "Prompt tokens of a worker, by whether their experts were known",
        labels=["model", "worker", "experts"],
    )
    avoided = GaugeMetricFamily(
        "eldr_worker_avoided",
        "1 while a worker is avoided",
        labels=["model", "worker", "why"],
    )
    relief = GaugeMetricFamily(
        "eldr_worker_relief", "Factor on the load of a slow worker", labels=["model", "worker"]
    )
    pace = GaugeMetricFamily(
        "eldr_worker_pace",
        "A worker's step time relative to its peers'; 1 means equal",
        labels=["model", "worker"],
    )
    captures = GaugeMetricFamily(
        "eldr_capture_workers",
        "Workers by the state of their capture of routed experts",
        labels=["model", "state"],
    )
    policy = GaugeMetricFamily(
        "eldr_policy_info", "1 for the policy in force", labels=["model", "policy", "parameters"]
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
        policy.add_metric([model.model, *model.policy], 1)
        states = dict.fromkeys(WORKER_STATES, 0)
        capturing = dict.fromkeys(CAPTURE_STATES, 0)
        others: list[int] = []
        for number, worker in enumerate(model.workers, start=1):
            if number % SLICE == 0:
                yield None
            states[worker.state] = states.get(worker.state, 0) + 1
            capturing[worker.capture.state.name if worker.capture else "UNSAID"] += 1
            if worker.worker_id == OTHER:
                others.append(worker.booked_sequences)
                continue
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
        if others:
            booked.add_metric([model.model, OTHER], sum(others))
        for name, count in capturing.items():
            captures.add_metric([model.model, name], count)
        for name, count in states.items():
            workers.add_metric([model.model, name], count)
    of_workers = [load, booked, capture, tokens, avoided, relief, pace, captures, workers]
    yield from (*of_workers, policy, leases, waiting, version, drift, window, held, size)
    yield from estimated((model.model, model.estimates) for model in state.models)
