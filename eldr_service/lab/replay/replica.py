"""One model as recorded in a decision log, under a policy of choice."""

from dataclasses import dataclass, replace

import numpy as np
from eldr.v1 import decision_log_pb2 as pb
from numpy.typing import NDArray

from eldr_service.core.booking import Booking
from eldr_service.core.decision import Reason
from eldr_service.core.errors import (
    FailedPreconditionError,
    ResourceExhaustedError,
    UnavailableError,
)
from eldr_service.core.worker import Avoidance, WorkerState
from eldr_service.decision_log import counts, from_records, snapshot
from eldr_service.lab.replay.instead import Instead
from eldr_service.lab.replay.meter import Meter
from eldr_service.routing.call import Known, RouteCall
from eldr_service.routing.model import Model
from eldr_service.routing.place import place
from eldr_service.stores.partition_file import load_partition


@dataclass(frozen=True, slots=True)
class Choice:
    """The result of a decision: a worker, or none if all eligible ones were full."""

    worker: str | None
    reason: Reason | None


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """The decode workers right after a decision, in order of registration.

    Attributes
    ----------
    workers : tuple of str
    ready : ndarray of bool
    load : ndarray of float64
        In flight relative to capacity, in the policy's unit.
    sequences : ndarray of int64
        Booked and foreign.
    active_experts : ndarray of float64
        Distinct experts per layer that a step of what is booked is predicted to use; NaN before any
        counts are known.
    """

    workers: tuple[str, ...]
    ready: NDArray[np.bool_]
    load: NDArray[np.float64]
    sequences: NDArray[np.int64]
    active_experts: NDArray[np.float64]


class Replica:
    """A model that goes through the events of the logged one.

    Parameters
    ----------
    appeared : LogModel
    report_limit : float
        Seconds after which a worker's report no longer counts.
    instead : Instead
        The policy and partition to use.
    follow : bool
        Book what the policy decides and continue from there, rather than what was logged. Bookings
        end when the logged ones did, or with their worker.
    """

    def __init__(
        self, appeared: pb.LogModel, report_limit: float, instead: Instead, follow: bool
    ) -> None:
        self._instead, self._follow = instead, follow
        self._own_partition = instead.partition_of(appeared.name)
        self._logged = appeared.policy
        self._state: dict[str, NDArray[np.generic]] = {}
        self._meter = Meter()
        policy = instead.make(appeared.policy.name, appeared.policy.parameters)
        self.model = Model(appeared.name, policy, report_limit, self._meter)
        self.model.decisions = appeared.decisions
        if self._own_partition:
            self.model.activate(self._own_partition, {})
        else:
            snapshot.restore_partition(self.model, appeared)

    # The snapshot

    def restore_worker(self, message: pb.LogWorker) -> None:
        """Restore a worker as it was."""
        snapshot.restore_worker(self.model, message)

    def restore_policy(self, message: pb.LogArray) -> None:
        """Restore a part of the logged policy's state."""
        self._state[message.name] = snapshot.array(message)

    def restore_booking(self, message: pb.LogBooking) -> None:
        """Restore a living booking."""
        booking = snapshot.restore_booking(self.model, message, self._logged.name)
        self._meter.booked(booking, booking.counts)

    def restored(self) -> None:
        """The snapshot is complete: the policy continues from it.

        Raises
        ------
        FailedPreconditionError
            The policy's state is from another version of it.
        """
        model = self.model
        if self._own_partition:
            model.activate(self._own_partition, self._own_partition.bindings)
        policy = model.policy
        if not self._state or policy.name != self._logged.name:
            for booking in model.bookings:
                policy.on_booked(booking)
            return
        snapshot.restore_policy(policy, self._state)
        self._state = {}

    # Events

    def worker_joined(self, message: pb.LogWorker, now: float) -> None:
        """A worker began a life, or updated its registration in the same one."""
        spec, state = from_records.worker_spec(message), WorkerState(message.state)
        if message.same_life:
            self.model.fleet.update(message.row, spec, now)
            return
        self.model.join(spec, state, message.incarnation, None, now)

    def worker_moved(self, message: pb.LogMove, now: float) -> None:
        """A worker's state changed."""
        state = WorkerState(message.state)
        if state is WorkerState.GONE:
            self.model.remove(message.row, now)
        elif state is WorkerState.READY:
            self.model.resume(message.row)
        else:
            self.model.drain(message.row)

    def worker_stood(self, message: pb.LogStanding) -> None:
        """A worker's standing changed."""
        avoidance = Avoidance(message.avoidance)
        self.model.fleet.set_standing(message.row, avoidance, message.relief)

    def reported(self, message: pb.LogReport, now: float) -> None:
        """A worker reported."""
        self.model.take_numbers(message.row, from_records.report(message), now)

    def completed(self, message: pb.LogCompleted, now: float) -> None:
        """A booking has its complete signature."""
        if booking := self.model.bookings.live(message.request_id):
            known, top_k = counts.from_record(message.counts)
            self.model.complete_signature(booking, known, top_k, message.coverage, now)
            self._meter.completed(booking, known)

    def running(self, message: pb.LogRunning) -> None:
        """From now on a booking's tokens are in its worker's reports."""
        if booking := self.model.bookings.live(message.request_id):
            self.model.running(booking)

    def ended(self, message: pb.LogEnd, now: float) -> None:
        """A booking ended, unless it already did with its worker."""
        if booking := self.model.bookings.live(message.request_id):
            self.model.end(booking, from_records.end(message, booking), now)
            self.model.bookings.forget(now)

    def partition_activated(self, message: pb.LogPartition) -> None:
        """A partition was put in force."""
        if self._own_partition is None:
            self.model.activate(load_partition(message.data), message.wishes)

    def policy_set(self, message: pb.LogPolicy) -> None:
        """A policy was put in force."""
        self._logged = message
        if self._instead.policy is None:
            policy = self._instead.make(message.name, message.parameters)
            learned = {each.name: snapshot.array(each) for each in message.learned}
            self.model.set_policy(policy, learned)

    def decide(self, call: RouteCall, known: Known, row: int, now: float) -> Choice:
        """Decide, and book; `row` is the logged worker's.

        Raises
        ------
        FailedPreconditionError
            The request's counts do not fit a given partition.
        """
        model = self.model
        if self._own_partition and known.counts is not None:
            geometry = self._own_partition.geometry
            if known.counts.shape != (geometry.num_layers, geometry.num_experts):
                raise FailedPreconditionError(
                    f"the partition is of {geometry}, the log's counts are of"
                    f" {known.counts.shape[0]} layers x {known.counts.shape[1]} experts"
                )
        if self._follow and known.earlier:
            # What ended before the log began was on the logged worker.
            earlier = model.bookings.earlier_worker(call.request_id, call.attempt) or known.earlier
            known = known._replace(earlier=earlier)
        try:
            placed = place(
                model, call, known, most_alternates=0, lease_seconds=np.inf, lease_id="", now=now
            )
        except (UnavailableError, ResourceExhaustedError):  # possible with followed bookings
            return Choice(None, None)
        booking = placed.booking
        choice = Choice(booking.worker_id, booking.reason)
        if not self._follow and booking.row != row:
            booking = self._as_logged(booking, row)
        model.book(booking)
        self._meter.booked(booking, known.counts)
        return choice

    def _as_logged(self, booking: Booking, row: int) -> Booking:
        model = self.model
        return replace(
            booking,
            row=row,
            generation=model.fleet.generation(row),
            worker_id=model.fleet.spec(row).worker_id,
            slot=model.bindings.slot_of.get(row, -1) if model.bindings else -1,
        )

    def worker_id(self, row: int) -> str:
        """The worker in a row."""
        return self.model.fleet.spec(row).worker_id

    def moment(self, now: float) -> Moment:
        """The state of the workers."""
        fleet = self.model.snapshot(now)
        active = self._meter.active_experts(fleet.rows)
        return Moment(
            workers=fleet.worker_ids,
            ready=fleet.eligible,
            load=fleet.load,
            sequences=fleet.sequences,
            active_experts=active,
        )
