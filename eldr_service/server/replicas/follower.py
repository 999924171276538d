"""Applies what other replicas did to this replica's view."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import structlog

from eldr_service.core.booking import Booking
from eldr_service.core.ends import REMEMBER_SECONDS, Ended
from eldr_service.core.errors import EldrError
from eldr_service.refits import Refits
from eldr_service.routing.chosen import Chosen
from eldr_service.routing.restore import booking_again
from eldr_service.routing.router import Router
from eldr_service.routing.workers import Workers
from eldr_service.server.replicas.mirror import MirroredStore, read_worker
from eldr_service.stores.bookings import KeptBooking, kept_of
from eldr_service.stores.records import WorkerRecord
from eldr_service.stores.shared import operations
from eldr_service.stores.shared.operations import Change

MARGIN_SECONDS = 2.0
"""Grace on leases that others renew, beside the quarter by which they may be ahead."""

log = structlog.get_logger("eldr")


class Follower:
    """Applies changes. This replica's own changes have no effect a second time.

    Parameters
    ----------
    router, workers, chosen, refits
    store : MirroredStore
    clock : callable () -> float
        Unix time, by the shared state's clock, at which the monotonic clock was 0.

    Attributes
    ----------
    applying : bool
        Whether what happens now was done elsewhere, and must not be published again.
    joining : Counter of (model, worker_id)
        Lives that began here and have not come back as changes: until then, others' changes of the
        worker concern an earlier life.
    """

    def __init__(
        self,
        router: Router,
        workers: Workers,
        chosen: Chosen,
        refits: Refits,
        store: MirroredStore,
        clock: Callable[[], float],
    ) -> None:
        self.applying = False
        self.joining: Counter[tuple[str, str]] = Counter()
        self._router = router
        self._workers = workers
        self._chosen = chosen
        self._refits = refits
        self._store = store
        self._clock = clock

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Mark what is done inside as done elsewhere."""
        before, self.applying = self.applying, True
        tell, self._store.tell = self._store.tell, None
        apart, self._store.apart = self._store.apart, False
        try:
            yield
        finally:
            self.applying, self._store.tell, self._store.apart = before, tell, apart

    def apply(self, change: Change, own: bool) -> None:
        """Apply a change, except to partition files and signatures."""
        if own and change.kind not in ("end", "join", "gone"):
            return
        if change.kind in ("join", "save", "gone") and self._is_of_an_earlier_life(change, own):
            return
        with self.elsewhere():
            match change.kind:
                case "place":
                    self.book(kept_of(change.fields[11]))
                case "end":
                    self._end(change)
                case "update":
                    self._update(kept_of(change.fields[4]))
                case "join" | "save":
                    self.worker(read_worker(change.fields[4]))
                case "gone":
                    self._gone(*change.texts()[:3])
                case "report":
                    self._report(change)
                case "model":
                    self.model(change.fields[1])
                case "slots":
                    self._slots(*change.texts())
                case "discard":
                    self._router.signatures.discard(*change.texts())

    def _is_of_an_earlier_life(self, change: Change, own: bool) -> bool:
        model, worker_id = change.fields[0].decode(), change.fields[1].decode()
        begun = self.joining[model, worker_id]
        if own and change.kind == "join" and begun:
            begun -= 1
        if begun:
            self.joining[model, worker_id] = begun
        else:
            del self.joining[model, worker_id]
        return begun > 0

    def book(self, kept: KeptBooking) -> None:
        """Count a booking that another replica made."""
        model, now = self._router.model_or_new(kept.model), time.monotonic()
        there = model.bookings.live(kept.request_id)
        if there and there.lease_id == kept.lease_id:
            self._renew(there, kept)
            return
        if there:
            model.end(there, Ended.WITHDRAWN, now)
        fleet, worker_id = model.fleet, kept.targets[0]
        row = fleet.row(worker_id)
        if row is None or kept.life not in (0, fleet.incarnation(row)):
            model.bookings.remember(
                kept.request_id, kept.attempt, Ended.WORKER_GONE, now + REMEMBER_SECONDS, worker_id
            )
            return
        rows = [fleet.row(target) for target in kept.targets]
        targets = tuple(fleet.spec(target) for target in rows if target is not None)
        expires_at = self._deadline(kept)
        booking = booking_again(model, kept, row, fleet.generation(row), targets, expires_at)
        booking.number = 0
        slots = len(model.bindings.placements) if model.bindings else 0
        if booking.slot >= slots:  # of another partition
            booking.slot = -1
        booking.seen_running = False
        model.book(booking)
        if kept.seen_running:
            model.running(booking)
        model.remember(kept.counts, booking, now)

    def _renew(self, booking: Booking, kept: KeptBooking) -> None:
        booking.expires_at = booking.noted_until = max(booking.expires_at, self._deadline(kept))

    def _deadline(self, kept: KeptBooking) -> float:
        return kept.expires - self._clock() + kept.lease_seconds / 4 + MARGIN_SECONDS

    def _end(self, change: Change) -> None:
        name, request_id, attempt, lease_id, how, worker_id = change.texts()[:6]
        model, now = self._router.models.get(name), time.monotonic()
        if model is None:
            return
        if how in (Ended.RELEASED.name, Ended.RELEASED_EARLY.name):
            self._router.signatures.discard(name, request_id)
        booking = model.bookings.find(request_id, int(attempt), lease_id)
        if booking:
            operations.take_reported(booking, change.fields[6])
            model.end(booking, Ended[how], now)
        elif not ((before := model.bookings.how_ended(request_id, int(attempt))) and before.final):
            model.bookings.remember(
                request_id, int(attempt), Ended[how], now + REMEMBER_SECONDS, worker_id
            )

    def _update(self, kept: KeptBooking) -> None:
        model = self._router.models.get(kept.model)
        booking = model and model.bookings.find(kept.request_id, kept.attempt, kept.lease_id)
        if not (model and booking):
            return
        self._renew(booking, kept)
        if kept.seen_running and not booking.seen_running:
            model.running(booking)
        if booking.awaits_signature and not kept.awaits_signature:
            now = time.monotonic()
            if kept.counts is not None:
                model.complete_signature(booking, kept.counts, kept.top_k, kept.coverage, now)
            else:
                booking.awaits_signature = False
                booking.top_k, booking.coverage = kept.top_k, kept.coverage

    def worker(self, record: WorkerRecord) -> None:
        """Update a worker to match another replica's."""
        now = time.monotonic()
        model = self._router.model_or_new(record.model)
        row = model.fleet.row(record.worker_id)
        if row is None or model.fleet.incarnation(row) != record.incarnation:
            try:
                self._workers.restore(record, now)
            except EldrError as error:  # another geometry, say
                log.error("worker of another replica not taken in", error=str(error))
                return
        else:
            self._workers.follow(record, now)
        self._store.save_worker(record)

    def _gone(self, model: str, worker_id: str, of_life: str) -> None:
        known = self._router.models.get(model)
        row = known.fleet.row(worker_id) if known else None
        life = int(of_life or 0)
        if known and row is not None and life in (0, known.fleet.incarnation(row)):
            self._workers.remove(model, worker_id, life, time.monotonic(), in_order=False)

    def _report(self, change: Change) -> None:
        name, worker_id = change.fields[0].decode(), change.fields[1].decode()
        model = self._router.models.get(name)
        row = model.fleet.row(worker_id) if model else None
        if not model or row is None:
            return
        report, left_out = operations.reported(change.fields[3])
        if change.fields[2] == b"0":  # a worker named by a file has another life here
            report = replace(report, incarnation=model.fleet.incarnation(row))
        model.take_numbers(row, report, time.monotonic())
        if model.lives(worker_id) == (row, report.incarnation) and (
            model.fleet.report_number(row) == report.number
        ):
            model.bookings.left_out_elsewhere(row, left_out, report.number)

    def model(self, text: bytes) -> None:
        """Apply another replica's choice of a model's policy, refits and partition."""
        record = self._store.take_model(text)
        try:
            self._chosen.follow(record)
        except EldrError as error:
            log.error("choice of another replica not taken in", model=record.name, error=str(error))
            return
        self._refits.follow_mode(self._router.model(record.name))

    def _slots(self, name: str, slots: str) -> None:
        model = self._router.models.get(name)
        version, of_worker = json.loads(slots)
        if model and model.partition and model.partition.version == version:
            model.rebind(of_worker)
