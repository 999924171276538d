"""Publishes to the other replicas: every change in the journal becomes an operation."""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from eldr_service.core.activation import Counts
from eldr_service.core.booking import Booking
from eldr_service.core.ends import REMEMBER_SECONDS, Ended
from eldr_service.core.worker import LoadReport, WorkerSpec, WorkerState
from eldr_service.routing.call import Known, RouteCall
from eldr_service.routing.journal import Journal
from eldr_service.routing.router import Router
from eldr_service.routing.workers import Workers, record_of
from eldr_service.server.replicas.commits import Commits
from eldr_service.server.replicas.follower import Follower
from eldr_service.server.replicas.mirror import worker_fields
from eldr_service.stores.bookings import kept_of, row_of
from eldr_service.stores.shared import operations
from eldr_service.stores.shared.operations import Operation, Result
from eldr_service.stores.shared.state import SharedState

MOST_LEFT_OUT = 500
"""Requests per operation, half a millisecond; a report that omits more takes several."""

log = structlog.get_logger("eldr")


class Telling(Journal):
    """Turns the router's changes into operations, and handles their results.

    Parameters
    ----------
    state : SharedState
    commits : Commits

    Attributes
    ----------
    listens : bool
        Whether events are to be published; not while a view is loaded at the start.
    waits : bool
        Whether placements wait for the shared state.
    """

    def __init__(self, state: SharedState, commits: Commits) -> None:
        self.commits = commits
        self.listens = self.waits = False
        self._state = state
        self._undecided: dict[str, asyncio.Future[str]] = {}
        self._released: dict[str, asyncio.Future[str]] = {}

    def start(self, router: Router, workers: Workers, follower: Follower) -> None:
        """Publish all that happens from now on."""
        self._router, self._workers, self._follower = router, workers, follower
        self.listens = self.waits = True

    def let_go(self) -> None:
        """Release everything that waits: what was decided here stands."""
        self.waits = False
        for waiting in (self._undecided, self._released):
            for future in waiting.values():
                if not future.done():
                    future.set_result("")
            waiting.clear()
        self.commits.let_go()

    def undecided(self, booking: Booking) -> asyncio.Future[str] | None:
        """Resolves to why a booking was not accepted, or empty; None for nothing to wait for."""
        return self._undecided.get(booking.lease_id)

    def releasing(self, booking: Booking) -> asyncio.Future[str] | None:
        """Resolves to what a release found, as in `end`; None for nothing to wait for."""
        return self._released.get(booking.lease_id)

    def tell(self, operation: Operation, hear: Callable[[Result], None] | None = None) -> None:
        """Queue an operation; `hear` gets its result."""
        self.commits.add(lambda: operation, hear)

    def placed(
        self, model: str, call: RouteCall, known: Known, booking: Booking, now: float
    ) -> None:
        """A request was decided and booked."""
        if self._follower.applying:
            return
        if self.waits:
            self._undecided[booking.lease_id] = asyncio.get_running_loop().create_future()
        sequences = self._router.models[model].fleet.booked(booking.row) - booking.num_sequences
        chosen = not (call.insists or call.pinned_worker)
        self.tell_of_booking(model, booking, sequences if chosen else None)

    def tell_of_booking(self, model: str, booking: Booking, known: int | None = None) -> None:
        """Publish a booking to the shared state; `known` as in `operations.place`."""
        told = self._router.models[model]
        life = self._workers.life(told, booking.row)
        capacity = told.fleet.spec(booking.row).capacity_sequences
        booking.noted_until = booking.expires_at

        def make() -> Operation:
            return operations.place(
                model,
                booking,
                life=life,
                capacity=capacity,
                known=known,
                left=booking.expires_at - time.monotonic(),
                settled=booking.lease_id not in self._undecided,
                row=row_of(model, life, booking, self._state.clock),
            )

        self.commits.add(make, lambda result: self._taken(model, booking, result))

    def _taken(self, model: str, booking: Booking, result: Result) -> None:
        future = self._undecided.pop(booking.lease_id, None)
        if result.word != "ok":
            with self._follower.elsewhere():
                self._router.withdraw(model, booking, time.monotonic())
                if result.word == "live":
                    self._follower.book(kept_of(result.told[0]))
                elif result.word == "ended":
                    self.remember(model, booking.request_id, result.told)
            if future is None and result.word == "live":
                log.warning(
                    "booked twice while the shared state was away; this one is taken back",
                    request_id=booking.request_id,
                    model=model,
                    worker=booking.worker_id,
                )
        if future and not future.done():
            future.set_result("" if result.word == "ok" else result.word)

    def remember(self, name: str, request_id: str, told: tuple[bytes, ...]) -> None:
        """Remember how the attempts of a request ended: each attempt, and how, as published."""
        model, until = self._router.models[name], time.monotonic() + REMEMBER_SECONDS
        for attempt, how in zip(told[::2], told[1::2], strict=True):
            model.bookings.remember(request_id, int(attempt), Ended[how.decode()], until, "")

    def completed(self, model: str, booking: Booking, counts: Counts) -> None:
        """A booking has its complete signature."""
        self.renewed(model, booking)

    def running(self, model: str, booking: Booking) -> None:
        """A worker has reported a booking for the first time."""
        self.renewed(model, booking)

    def renewed(self, model: str, booking: Booking) -> None:
        """A booking has changed since it was last published."""
        if self._follower.applying:
            return
        life = self._workers.life(self._router.models[model], booking.row)
        booking.noted_until = booking.expires_at

        def make() -> Operation:
            left = operations.milliseconds(booking.expires_at - time.monotonic())
            row = row_of(model, life, booking, self._state.clock)
            return "update", model, booking.request_id, booking.lease_id, left, row

        def hear(result: Result) -> None:
            if result.word == "gone":  # ended elsewhere, not yet known to the view
                with self._follower.elsewhere():
                    self._router.withdraw(model, booking, time.monotonic())

        self.commits.add(make, hear)

    def ended(self, model: str, booking: Booking, how: Ended, now: float) -> None:
        """A booking ended."""
        if self._follower.applying or how in (Ended.WORKER_GONE, Ended.WITHDRAWN):
            return  # when a worker's life ends, all its bookings do

        if how is Ended.RELEASED and self.waits:
            self._released[booking.lease_id] = asyncio.get_running_loop().create_future()

        def hear(result: Result) -> None:
            future = self._released.pop(booking.lease_id, None)
            if future and not future.done():
                future.set_result(result.word)
            if result.word == "renewed":
                with self._follower.elsewhere():
                    self._follower.book(kept_of(result.told[0]))

        told = (
            operations.told_of(booking.output_tokens, booking.decode_seconds, booking.decode_counts)
            if how is Ended.RELEASED
            else ""
        )
        lease, worker = booking.lease_id, booking.worker_id
        self.tell(operations.end(model, *booking.key, lease, how, worker, told), hear)

    def remembered(self, model: str, request_id: str, attempt: int, how: Ended, now: float) -> None:
        """The end of an attempt without a booking is remembered.

        When connected, the release itself asks (`released`), as others may have the booking.
        """
        if not self._follower.applying and not self.waits:
            self.tell(operations.end(model, request_id, attempt, "", how, ""))

    def joined(
        self, model: str, row: int, spec: WorkerSpec, state: WorkerState, incarnation: int,
        now: float,
    ) -> None:  # fmt: skip
        """A worker began a life."""
        if not self.listens or self._follower.applying:
            return
        known = self._router.models[model]
        if self._workers.life(known, row):
            self._follower.joining[model, spec.worker_id] += 1
            self.tell(("join", *worker_fields(record_of(known, row))))

    def reported(
        self, model: str, row: int, report: LoadReport, left_out: Sequence[Booking], now: float
    ) -> None:
        """A worker's report was accepted."""
        if self.waits and not self._follower.applying:
            known = self._router.models[model]
            life, worker_id = self._workers.life(known, row), known.fleet.spec(row).worker_id

            def make(some: Sequence[Booking]) -> Operation:
                keys = [booking.key for booking in some]
                return operations.report(model, worker_id, life, report, keys)

            for start in range(0, max(len(left_out), 1), MOST_LEFT_OUT):
                self.commits.add(partial(make, left_out[start : start + MOST_LEFT_OUT]))
