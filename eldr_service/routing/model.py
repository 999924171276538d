"""All that the daemon holds of one model; sums over bookings and workers always agree."""

import math
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
import structlog
from numpy.typing import NDArray

from eldr_service.core.activation import Counts
from eldr_service.core.bindings import Bindings
from eldr_service.core.booking import Booking, BookingTable
from eldr_service.core.decision import FleetSnapshot
from eldr_service.core.ends import Ended
from eldr_service.core.errors import FailedPreconditionError
from eldr_service.core.fleet import Fleet
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.held_prefixes import HeldPrefixes
from eldr_service.core.partition import Partition
from eldr_service.core.quantised import QuantisedCentroids
from eldr_service.core.recent import RecentCounts
from eldr_service.core.signature_memory import SignatureMemory
from eldr_service.core.worker import LoadReport, StepReport, WorkerRole, WorkerSpec, WorkerState
from eldr_service.policies.policy import Policy
from eldr_service.policies.state import PolicyState
from eldr_service.routing.drains import Drains
from eldr_service.routing.explanations import Explanations
from eldr_service.routing.journal import Journal
from eldr_service.routing.moves import Movable
from eldr_service.routing.observer import Observer
from eldr_service.routing.standing import Standing, StandingLimits

MAX_STEP_REPORTS = 1_024  # several minutes of a few workers that report every second
LEAST_FITTED_COVERAGE = 0.5
MAX_GROUPS_LEFT = 4_096

log = structlog.get_logger(__name__)


class Model:
    """Fleet, bookings, partition and policy of one model.

    Attributes
    ----------
    geometry : ModelGeometry or None
        None until a worker, a partition or the configuration declares it.
    decisions : int
        Decisions booked since the policy was put in force.
    first_number : int
        The first number of decisions, for policies that draw by it. Other replicas start elsewhere,
        as replicas that do not see each other would otherwise draw the same.
    has_own_policy : bool
        Whether an operator chose it for this model.
    step_reports : deque of StepReport
        The latest reports, from all workers.
    step_reports_seen : int
        How many there ever were.
    drift : float or None
        How much farther recent signatures are from the nearest centroid than those that the
        partition was fitted on; None if unknown.
    """

    def __init__(
        self,
        name: str,
        policy: Policy,
        report_limit: float,
        observer: Observer,
        recent: RecentCounts | None = None,
        journal: Journal | None = None,
        explanations: Explanations | None = None,
        standing: StandingLimits | None = None,
        memory: SignatureMemory | None = None,
        move_rest_seconds: float = 0.25,
    ) -> None:
        self.name = name
        self.geometry: ModelGeometry | None = None
        self.fleet = Fleet(report_limit)
        self.standing = Standing(self.fleet, standing) if standing else None
        self.drains = Drains()
        self.bookings = BookingTable(lambda booking: self.journal.renewed(name, booking))
        self.movable = Movable(move_rest_seconds)
        self.recent = RecentCounts() if recent is None else recent  # an empty one is falsy
        self.memory = SignatureMemory() if memory is None else memory
        self.explanations = Explanations() if explanations is None else explanations
        self.prefixes = HeldPrefixes()
        self.partition: Partition | None = None
        self.bindings: Bindings | None = None
        self._quantised: QuantisedCentroids | None = None
        self._spread = math.nan
        self._slots: tuple[tuple[object, ...], NDArray[np.int32]] = ((), np.empty(0, np.int32))
        self.policy = policy
        self._learned: dict[str, PolicyState] = {}  # by policies that were in force earlier
        self.decisions = 0
        self.first_number = 0
        self.has_own_policy = False
        self.step_reports: deque[StepReport] = deque(maxlen=MAX_STEP_REPORTS)
        self.step_reports_seen = 0
        self.drift: float | None = None
        self.observer = observer
        self.journal = journal or Journal()
        self._declared_by: set[Hashable] = set()
        self._groups_left: dict[str, str] = {}  # of workers that left before their requests

    @property
    def number(self) -> int:
        """The number of the next decision."""
        return self.first_number + self.decisions

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the model is present or remembered, so that it can be forgotten."""
        kept = self._declared_by or self.has_own_policy
        return not (len(self.fleet) or kept) and self.bookings.is_empty

    # Geometry

    def check_geometry(self, geometry: ModelGeometry, renewed: Hashable = None) -> None:
        """Raise FailedPreconditionError if the model has another geometry.

        A source that declares again (`renewed`) may change a geometry that rests on it alone.
        """
        if self.geometry and geometry != self.geometry and self._declared_by != {renewed}:
            raise FailedPreconditionError(f"model {self.name} has {self.geometry}, not {geometry}")

    def declare_geometry(self, geometry: ModelGeometry, source: Hashable) -> None:
        """Set the model's geometry for as long as one of its sources is there."""
        self.check_geometry(geometry)
        self.geometry = geometry
        self._declared_by.add(source)

    def declares(self, source: Hashable) -> bool:
        """Whether the geometry rests on this source, possibly among others."""
        return source in self._declared_by

    def _withdraw_geometry(self, source: Hashable) -> None:
        self._declared_by.discard(source)
        if not self._declared_by:
            self.geometry = None

    def group_of(self, worker_id: str) -> str:
        """The group of a prefill worker, even one that has left; empty if it has none."""
        row = self.fleet.row(worker_id)
        return self._groups_left.get(worker_id, "") if row is None else self.fleet.spec(row).group

    def lives(self, worker_id: str) -> tuple[int, int] | None:
        """The row and incarnation of a worker; None if it is unknown."""
        row = self.fleet.row(worker_id)
        return None if row is None else (row, self.fleet.incarnation(row))

    # What policies see

    def snapshot(self, now: float) -> FleetSnapshot:
        """The fleet at this moment, as the policy in force needs it."""
        return self.fleet.snapshot(
            now,
            slots=self._slots_now(),
            quantised=self._quantised,
            spread=self._spread,
            load=self.policy.parameters.load,
        )

    def _slots_now(self) -> NDArray[np.int32]:
        """The slot of each decode worker; recomputed only after a change."""
        bindings = self.bindings
        state = (self.fleet.version, bindings, bindings and bindings.version)
        if self._slots[0] != state:
            slot_of = bindings.slot_of if bindings else {}
            slots = [slot_of.get(row, -1) for row in self.fleet.decode_rows.tolist()]
            self._slots = state, np.array(slots, dtype=np.int32)
            self._slots[1].flags.writeable = False
        return self._slots[1]

    # Prefixes

    def hold_prefixes(self, row: int, hashes: Sequence[int], block_tokens: int) -> None:
        """Assume that a worker holds a prompt booked on it; see `HeldPrefixes.hold`."""
        self.prefixes.hold(row, hashes, block_tokens, self.fleet.capacity_kv(row))

    def cached_tokens(self, hashes: Sequence[int], block_tokens: int) -> dict[str, int]:
        """How many of a prompt's tokens workers are believed to hold, by worker id."""
        held = self.prefixes.of(hashes, block_tokens)
        return {self.fleet.spec(row).worker_id: tokens for row, tokens in held.items()}

    # Bookings

    def book(self, booking: Booking) -> None:
        """Count a booking everywhere."""
        self.bookings.add(booking)
        self.fleet.book(booking.row, booking.num_sequences, booking.tokens)
        if self.bindings and booking.slot >= 0:
            self.bindings.placements[booking.slot] += 1
        self._tell(self.policy, self.policy.on_booked, booking)
        self.decisions += 1

    def restore(self, bookings: Sequence[Booking]) -> None:
        """Count bookings of an earlier run, which were decided and journalled then."""
        self.bookings.add_all(bookings)
        sums: dict[int, list[int]] = {}  # the fleet's methods are too slow for many bookings
        for booking in bookings:
            of_row = sums.setdefault(booking.row, [0, 0, 0])
            tokens = booking.tokens
            of_row[0] += booking.num_sequences
            of_row[1] += tokens
            of_row[2] += tokens * booking.seen_running
        for row, (sequences, tokens, seen) in sums.items():
            self.fleet.book(row, sequences, tokens)
            self.fleet.seen(row, seen)
        if type(self.policy).on_booked is not Policy.on_booked:
            for booking in bookings:
                self._tell(self.policy, self.policy.on_booked, booking)

    def complete_signature(
        self, booking: Booking, counts: Counts, top_k: int, coverage: float, now: float
    ) -> None:
        """Give a booking that awaits it the complete signature."""
        booking.awaits_signature = False
        booking.top_k, booking.coverage = top_k, coverage
        booking.kept = counts.copy() if booking.declared and self.policy.keeps_counts else None
        self._tell(self.policy, self.policy.on_signature_completed, booking)
        self.journal.completed(self.name, booking, counts)
        self.remember(counts, booking, now)

    def remember(self, counts: Counts | None, booking: Booking, now: float) -> None:
        """Keep a booking's counts for fits and predictions, unless they are still incomplete."""
        enough = booking.coverage >= LEAST_FITTED_COVERAGE and not booking.awaits_signature
        if counts is not None and self.geometry and enough:
            self.recent.add(counts, now)
            if booking.keys:
                self.memory.learn(booking.keys, counts, self.geometry)

    def _remember_decode(self, booking: Booking) -> None:
        """Keep a decode's counts for predictions, with its prefill's if known."""
        decode, geometry = booking.decode_counts, self.geometry
        if not (booking.keys and geometry) or decode is None:
            return
        if decode.shape == (geometry.num_layers, geometry.num_experts):
            more = not booking.awaits_signature
            self.memory.learn(booking.keys, decode, geometry, more)

    def end(self, booking: Booking, how: Ended, now: float) -> None:
        """Remove a booking everywhere."""
        self.bookings.end(booking, how, now)
        if self.movable:
            self.movable.remove(booking)
        self.fleet.unbook(
            booking.row,
            booking.generation,
            booking.num_sequences,
            booking.tokens,
            booking.seen_running,
        )
        self._tell(self.policy, self.policy.on_ended, booking, how)
        self._remember_decode(booking)
        self.journal.ended(self.name, booking, how, now)
        self.observer.ended(self.name, booking, how)

    def running(self, booking: Booking) -> None:
        """A worker has reported a booking for the first time."""
        booking.seen_running = True
        self.fleet.seen(booking.row, booking.tokens)
        self.journal.running(self.name, booking)

    def expire(self, now: float) -> None:
        """End the bookings whose lease has run out."""
        for booking in self.bookings.expired(now):
            self.end(booking, Ended.EXPIRED, now)

    # Reports

    def take_numbers(
        self, row: int, report: LoadReport, now: float, left_out: Sequence[Booking] = ()
    ) -> bool:
        """Take in only a report's measurements; False if it is late.

        `left_out` are bookings that the worker listed before, for the journal.
        """
        if not self.fleet.accept(row, report, now):
            return False
        if report.batch_size > 0:
            self.step_reports.append(
                StepReport(report.batch_size, report.active_experts, report.step_seconds)
            )
            self.step_reports_seen += 1
        if report.state is not WorkerState.GONE:
            worker_id = self.fleet.spec(row).worker_id
            self._tell(self.policy, self.policy.on_reported, worker_id, report)
            self.journal.reported(self.name, row, report, left_out, now)
            if self.standing:
                self._stand(self.standing.reported(row, report, now))
        return True

    # Workers

    def join(
        self,
        spec: WorkerSpec,
        state: WorkerState,
        incarnation: int,
        geometry: ModelGeometry | None,
        now: float,
        counts_unbooked: bool = False,
    ) -> int:
        """Begin a worker's life, after the end of any previous one; returns its row."""
        old = self.fleet.row(spec.worker_id)
        if old is not None:
            self.end_life(old, now)
        row = self.fleet.join(spec, state, incarnation, now, counts_unbooked)
        if geometry:
            self.declare_geometry(geometry, row)
        self.journal.joined(self.name, row, spec, state, incarnation, now)
        if self.bindings and spec.role is WorkerRole.DECODE:
            self.bindings.join(row)
        if self.standing:
            self._stand(self.standing.joined(row, now), tell=False)
        self.observer.worker_changed(self.name, row, state)
        return row

    def update(
        self,
        row: int,
        spec: WorkerSpec,
        state: WorkerState,
        geometry: ModelGeometry | None,
        now: float,
    ) -> None:
        """Update a worker's registration in the same life; bookings, counts and slot stay."""
        before, capture = self.fleet.spec(row), self.fleet.capture(row)
        if spec.role is not before.role:
            raise FailedPreconditionError(
                f"worker {spec.worker_id} of {self.name} is {before.role.name} for this life, not"
                f" {spec.role.name}"
            )
        if geometry:
            self.declare_geometry(geometry, row)
        self.fleet.update(row, spec, now)
        self.journal.updated(self.name, row, spec, now)
        if self.standing:
            self._stand(self.standing.heard(row, now))
        changed = before != spec or bool(spec.capture and spec.capture.differs(capture))
        if not self.follow(row, state) and changed:
            self.observer.worker_changed(self.name, row, self.fleet.state(row))

    def judge(self, booking: Booking, failed: bool, now: float) -> None:
        """Judge a worker by a request that it failed or completed."""
        if self.standing and self.fleet.generation(booking.row) == booking.generation:
            self._stand(self.standing.ended(booking.row, failed, now))

    def _stand(self, rows: Sequence[int], tell: bool = True) -> None:
        """Announce a changed standing of workers."""
        for row in rows:
            self.journal.stood(self.name, row, *self.fleet.standing(row))
            if tell:
                self.observer.worker_changed(self.name, row, self.fleet.state(row))

    def pass_time(self, now: float) -> list[int]:
        """Advance silence, hold-downs and drains; returns rows of workers to remove."""
        if self.standing:
            self._stand(self.standing.tick(now))
        for booking in self.drains.overdue(self.bookings, now):
            self.end(booking, Ended.DRAINED, now)
        for row in self.drains.over(self.bookings):
            self.observer.worker_changed(self.name, row, WorkerState.DRAINING)
        return self.drains.to_go()

    def follow(self, row: int, reported: WorkerState) -> bool:
        """Follow the state that a worker reports, READY or DRAINING; True if it changed."""
        before = self.fleet.state(row)
        if reported is WorkerState.DRAINING:
            self.drain(row)
        elif reported is WorkerState.READY and before is WorkerState.JOINING:
            self.resume(row)
        return self.fleet.state(row) is not before

    def drain(self, row: int) -> None:
        """Place nothing new on a worker; its slot becomes free."""
        if row not in self.drains:
            self.drains.begin(row)
        if self.fleet.state(row) is WorkerState.DRAINING:
            return
        self.fleet.set_state(row, WorkerState.DRAINING)
        if self.bindings:
            self.bindings.leave(row)
        self.journal.moved(self.name, row, WorkerState.DRAINING)
        self.observer.worker_changed(self.name, row, WorkerState.DRAINING)

    def resume(self, row: int) -> None:
        """Place requests on a worker that was joining or draining; its bookings have gone on."""
        if self.fleet.state(row) is WorkerState.READY:
            return
        self.drains.forget(row)
        self.fleet.set_state(row, WorkerState.READY)
        unbound = self.bindings and row not in self.bindings.slot_of
        if self.bindings and unbound and self.fleet.spec(row).role is WorkerRole.DECODE:
            self.bindings.join(row)
        self.journal.moved(self.name, row, WorkerState.READY)
        self.observer.worker_changed(self.name, row, WorkerState.READY)

    def is_drained(self, row: int) -> bool:
        """Whether a worker drains, and nothing is booked on it any more."""
        return row in self.drains and not self.bookings.any_on_row(row)

    def end_life(self, row: int, now: float) -> int:
        """End the bookings of a worker's life and unbind it; returns how many there were."""
        bookings = self.bookings.on_row(row)
        for booking in bookings:
            self.end(booking, Ended.WORKER_GONE, now)
        if self.bindings:
            self.bindings.leave(row)
        self.drains.forget(row)
        self.prefixes.forget(row)
        self._withdraw_geometry(row)
        return len(bookings)

    def remove(self, row: int, now: float, in_order: bool = False) -> int:
        """Remove a worker, `in_order` if by command; returns how many bookings ended with it."""
        if self.standing and (in_order or row in self.drains):
            self.standing.left_in_order(row)
        ended = self.end_life(row, now)
        if (spec := self.fleet.spec(row)).group:
            self._groups_left.pop(spec.worker_id, None)
            self._groups_left[spec.worker_id] = spec.group
            if len(self._groups_left) > MAX_GROUPS_LEFT:
                del self._groups_left[next(iter(self._groups_left))]
        self.observer.worker_changed(self.name, row, WorkerState.GONE)
        self.fleet.set_state(row, WorkerState.GONE)
        self.journal.moved(self.name, row, WorkerState.GONE)
        return ended

    # Partition and policy

    def activate(self, partition: Partition, wishes: Mapping[str, int]) -> None:
        """Use a partition from the next decision on; `wishes` bind workers to slots first."""
        rows = self.rows_to_bind()
        slots = {row: wishes.get(self.fleet.spec(row).worker_id) for row in rows}
        fitting = {r: s for r, s in slots.items() if s is not None and s < partition.num_slots}
        self.bindings = Bindings.of(partition.num_slots, rows, fitting)
        self.partition = partition
        self._quantised = QuantisedCentroids.of(partition.centroids)
        self._spread = partition.spread
        self.journal.activated(self.name, partition, wishes)

    def rebind(self, slots: Mapping[str, int]) -> None:
        """Bind workers, by id, to the active partition's slots."""
        if self.bindings is None or self.slots_by_worker() == slots:
            return
        rows = {row: slots.get(self.fleet.spec(row).worker_id, -1) for row in self.rows_to_bind()}
        placements = self.bindings.placements
        fitting = {row: slot for row, slot in rows.items() if 0 <= slot < len(placements)}
        self.bindings = Bindings.of(len(placements), rows, fitting)
        self.bindings.placements = placements

    def rows_to_bind(self) -> list[int]:
        """Rows of the decode workers that should have a slot, in order of registration."""
        return [
            row
            for row in self.fleet.rows()
            if self.fleet.spec(row).role is WorkerRole.DECODE
            and self.fleet.state(row) is not WorkerState.DRAINING
        ]

    def slots_by_worker(self) -> dict[str, int]:
        """The slot of each bound worker, by worker id."""
        slot_of = self.bindings.slot_of if self.bindings else {}
        return {self.fleet.spec(row).worker_id: slot for row, slot in slot_of.items()}

    def set_policy(self, policy: Policy, learned: PolicyState | None = None) -> None:
        """Use a policy from the next decision on; it is told of existing bookings.

        It starts with what one of its name had `learned`: by default when it was last in force.
        """
        self._learned[self.policy.name] = self._learned_by(self.policy)
        learned = self._learned.get(policy.name, {}) if learned is None else learned
        if learned:
            self._tell(policy, policy.relearn, learned)
        for booking in self.bookings:
            self._tell(policy, policy.on_booked, booking)
        self.policy = policy
        self.has_own_policy = True
        self.decisions = 0
        self.journal.policy_set(self.name, policy, learned)

    def _learned_by(self, policy: Policy) -> PolicyState:
        try:
            return policy.learned()
        except Exception:  # as below
            log.exception("policy failed", model=self.name, policy=policy.name)
            return {}

    def _tell(self, policy: Policy, hook: Callable[..., None], *what: object) -> None:
        """Call a policy's hook. It may be a plugin's: its errors must not keep a booking alive."""
        try:
            hook(*what)
        except Exception:  # a plugin may raise anything; the traceback is logged
            log.exception("policy failed", model=self.name, policy=policy.name)
