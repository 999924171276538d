"""The daemon's logs and metrics: one log line per decision, and counters."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import structlog
from eldr.v1 import router_pb2

from eldr_service.core.booking import Booking
from eldr_service.core.ends import Ended
from eldr_service.core.errors import EldrError, ResourceExhaustedError
from eldr_service.core.worker import Avoidance, WorkerState
from eldr_service.policies.registry import parameters_of
from eldr_service.routing.call import RouteCall
from eldr_service.routing.journal import Journal
from eldr_service.routing.model import Model
from eldr_service.routing.place import Placed
from eldr_service.routing.router import ReleaseOutcome, ReleaseResult, Router
from eldr_service.server.comparison.comparisons import Comparisons, Foretold
from eldr_service.server.comparison.load_only import Comparison
from eldr_service.server.observability.estimates import Estimates
from eldr_service.server.observability.gauges import ModelState, RouterState
from eldr_service.server.observability.gauges import WorkerState as WorkerGauges
from eldr_service.server.observability.metrics import Metrics
from eldr_service.server.rpc.errors import status_code

MAX_LOGGED = 1_024  # characters of an error, which may quote input

log = structlog.get_logger("eldr")


class Telemetry:
    """Observes the router for logs and metrics.

    Parameters
    ----------
    comparisons : Comparisons
        Comparisons with load alone; a scrape of the metrics counts as a look.
    most_workers : int
        Workers with their own series.

    Attributes
    ----------
    journal : Journal
        Reports what an observer is not told.
    on_worker_changed : callable (model, row, state)
        Called at every change of membership, state and capture, for watchers.
    is_elsewhere : callable () -> bool
        Whether what happens now was done by another replica, which counts it.
    on_room : callable (model)
        Called whenever a worker of the model may have new room.
    waiting : callable (model) -> int
        How many calls wait for room.
    """

    def __init__(self, comparisons: Comparisons | None = None, most_workers: int = 1_024) -> None:
        self.metrics = Metrics(self._state, most_workers)
        self.journal = _Forgetting(self.metrics)
        self._comparisons = comparisons or Comparisons(on=False)
        self.on_worker_changed: Callable[[str, int, WorkerState], None] = lambda *_: None
        self.is_elsewhere: Callable[[], bool] = lambda: False
        self.on_room: Callable[[str], None] = lambda _: None
        self.waiting: Callable[[str], int] = lambda _: 0
        self._router: Router | None = None

    def watch(self, router: Router) -> None:
        """Show this router's state from now on."""
        self._router = router

    def placed(self, call: RouteCall, placed: Placed, seconds: float) -> None:
        """A Route was answered."""
        booking = placed.booking
        if call.dry_run:
            return
        reason = booking.reason.name
        signature = booking.source.name if booking.source else "NONE"
        if not placed.repeated:
            self.metrics.decision_seconds.observe(seconds)
            self.metrics.placed(call.model, booking.policy, reason, booking.worker_id, signature)
            if booking.source.is_predicted:
                self.metrics.signatures_predicted.labels(call.model, booking.source.name).inc()
        if not log.is_enabled_for(logging.DEBUG):
            return
        log.debug(
            "placed",
            request_id=call.request_id,
            attempt=call.attempt,
            model=call.model,
            worker=booking.worker_id,
            reason=reason,
            policy=booking.policy,
            similarity=booking.similarity,
            coverage=round(booking.known_coverage, 3),
            signature=booking.source.name,
            stale=booking.stale,
            repeated=placed.repeated,
            early=booking.early,
            microseconds=round(seconds * 1e6),
        )

    @contextmanager
    def waits(self) -> Iterator[None]:
        """Measure how long a call waits for a place."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.metrics.wait_seconds.observe(time.perf_counter() - began)

    def released(
        self,
        model: str,
        request: router_pb2.ReleaseRequest,
        outcome: ReleaseOutcome,
        result: ReleaseResult,
        booking: Booking | None,
    ) -> None:
        """A Release was answered."""
        if result is ReleaseResult.RELEASED:
            self.metrics.releases.labels(model, outcome.name).inc()
        log.debug(
            "released",
            request_id=request.request_id,
            attempt=request.attempt,
            model=model,
            worker=booking.worker_id if booking else None,
            outcome=outcome.name,
            result=result.name,
        )

    def answered(self, servicer: object, method: str, seconds: float) -> None:
        """A unary call was answered, successfully or not."""
        self.metrics.answered(_full_name(servicer, method), seconds)

    def refused(
        self, servicer: object, method: str, code: grpc.StatusCode, error: EldrError
    ) -> None:
        """A call or a message of a stream was refused."""
        method = _full_name(servicer, method)
        self.metrics.errors.labels(method, code.name).inc()
        # A log line would take as long as the refusal, just when there is no time.
        say = log.debug if isinstance(error, ResourceExhaustedError) else log.info
        say("refused", method=method, code=code.name, error=str(error)[:MAX_LOGGED])

    def refused_call(self, method: str, error: EldrError) -> None:
        """A call was refused as too many are in progress; a flood must not flood the log."""
        code = status_code(error)
        self.metrics.errors.labels(method.lstrip("/"), code.name).inc()
        log.debug("refused", method=method, code=code.name, error=str(error))

    def refused_caller(self, method: str, error: EldrError) -> None:
        """A call was refused for its token; unauthenticated method names get no series."""
        code = status_code(error)
        self.metrics.errors.labels("any", code.name).inc()
        why = {"why": str(error.__cause__)[:MAX_LOGGED]} if error.__cause__ else {}
        log.info("refused", method=method[:MAX_LOGGED], code=code.name, error=str(error), **why)

    def refitted(self, model: str, outcome: str) -> None:
        """A refit ended."""
        self.metrics.refits.labels(model, outcome).inc()

    # Observer

    def ended(self, model: str, booking: Booking, how: Ended) -> None:
        """A booking ended."""
        self.on_room(model)
        if self.is_elsewhere():
            return
        self.metrics.bookings_ended.labels(model, how.name).inc()
        if how is not Ended.RELEASED:
            log.info(
                "booking ended",
                request_id=booking.request_id,
                attempt=booking.attempt,
                model=model,
                worker=booking.worker_id,
                reason=how.value,
            )

    def signatures_dropped(self, number: int, why: str) -> None:
        """Held signatures were dropped."""
        self.metrics.signatures_dropped.labels(why).inc(number)

    def worker_changed(self, model: str, row: int, state: WorkerState) -> None:
        """A worker joined, or its state, standing or capture changed."""
        assert self._router
        fleet = self._router.models[model].fleet
        worker, capture = fleet.spec(row).worker_id, fleet.capture(row)
        said = {"capture": capture.state.name, "reason": capture.reason} if capture else {}
        avoidance, relief = fleet.standing(row)
        if avoidance is not Avoidance.NONE:
            said["avoided"] = avoidance.name
        if relief > 1:
            said["relief"] = f"{relief:.2f}"
        if self._router.models[model].is_drained(row) and state is WorkerState.DRAINING:
            said["drained"] = "yes"
        log.info("worker", worker=worker, model=model, state=state.name, **said)
        self.on_worker_changed(model, row, state)
        self.on_room(model)
        if state is not WorkerState.GONE:
            self.metrics.worker_is_there(model, worker)
            return
        self.metrics.forget_worker(model, worker)
        if fleet.record(row)["alive_until"] <= time.monotonic():
            self.metrics.worker_expired(model, worker)

    def _state(self) -> RouterState:
        if self._router is None:
            return RouterState()
        now = time.monotonic()
        self._comparisons.look(now)
        return RouterState(
            models=[self._model_state(model, now) for model in self._router.models.values()],
            signatures_held=len(self._router.signatures),
            signature_bytes=self._router.signatures.nbytes,
        )

    def _model_state(self, model: Model, now: float) -> ModelState:
        name = model.name
        policy = model.policy
        return ModelState(
            model=name,
            workers=_worker_states(model, self.metrics.own_series.label, now),
            policy=(policy.name, ",".join(f"{k}={v}" for k, v in parameters_of(policy).items())),
            leases=len(model.bookings),
            waiting=self.waiting(name),
            partition_version=model.partition.version if model.partition else 0,
            partition_drift=model.drift,
            window_signatures=len(model.recent),
            estimates=_estimates(self._comparisons.of(name), self._comparisons.foretold(name)),
        )


class _Forgetting(Journal):
    """Drops the series of forgotten models: made-up names come and go."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def forgotten(self, model: str) -> None:
        """A model was forgotten."""
        self._metrics.forget_model(model)


def _full_name(servicer: object, method: str) -> str:
    return f"eldr.v1.{type(servicer).__name__}/{method}"


def _estimates(found: Comparison | None, foretold: Foretold | None) -> Estimates:
    ratio = found.step_change + 1 if found else math.nan
    sums = (foretold.reports, foretold.predicted, foretold.reported) if foretold else None
    return Estimates(
        active_experts=(found.active_experts, found.active_experts_by_load) if found else None,
        step_time_ratio=ratio if math.isfinite(ratio) else None,
        foretold=sums,
    )


def _worker_states(
    model: Model, label: Callable[[str, str], str], now: float
) -> Iterator[WorkerGauges]:
    """The workers, each read when it is reached."""
    fleet = model.fleet
    for worker_id in [fleet.spec(row).worker_id for row in fleet.rows()]:
        row = fleet.row(worker_id)
        if row is None:  # it has left since
            continue
        yield WorkerGauges(
            worker_id=label(model.name, worker_id),
            state=fleet.state(row).name,
            load=fleet.load(row, now),
            booked_sequences=fleet.booked(row),
            capture=fleet.capture(row),
            avoidance=fleet.avoidance(row).name,
            relief=fleet.standing(row)[1],
            pace=fleet.pace(row),
        )
