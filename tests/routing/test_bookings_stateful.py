"""Random lives of a fleet and its bookings, against the contract in plain dicts."""

import math
from dataclasses import replace

import numpy as np
from contract_model import REPORT_LIMIT, Contract, ModelBooking, ModelPast, ModelWorker
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from recording import Told, recording

from eldr_service.core.activation import ActivationCounts
from eldr_service.core.errors import (
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.partition import Partition
from eldr_service.core.signature import SignatureTransform
from eldr_service.core.worker import LoadReport, WorkerRole, WorkerSpec, WorkerState
from eldr_service.policies.join_shortest_queue import JoinShortestQueue
from eldr_service.policies.locality_band import LocalityBand
from eldr_service.policies.power_of_two_choices import PowerOfTwoChoices
from eldr_service.policies.round_robin import RoundRobin
from eldr_service.routing.call import RouteCall
from eldr_service.routing.partitions import Partitions
from eldr_service.routing.records import Records
from eldr_service.routing.router import Limits, ReleaseResult, Router
from eldr_service.routing.workers import Workers
from eldr_service.stores.sqlite import SqliteStore

MODEL = "model"
GEOMETRY = ModelGeometry(1, 4, 1)
POLICIES = [recording(p) for p in (RoundRobin, JoinShortestQueue, PowerOfTwoChoices, LocalityBand)]
PARTITIONS = [
    Partition(MODEL, SignatureTransform(GEOMETRY), np.eye(4, dtype=np.float32)[:slots])
    for slots in (1, 2, 3)
]

requests = st.integers(0, 8)  # 0: the next to come; 1, 2: the latest; others: a living one
decoders = st.sampled_from([f"w{i}" for i in range(5)])
some_decoders = st.frozensets(decoders, max_size=3)
counts = st.sampled_from(
    [
        ActivationCounts(GEOMETRY, 0, 9 * np.eye(4, dtype=np.uint32)[[expert]], 9)
        for expert in range(4)
    ]
)
filters = st.one_of(
    *[st.just({})] * 6,
    st.fixed_dictionaries({"prefill_worker": st.sampled_from(["prefill", "prefill", "nobody"])}),
    st.fixed_dictionaries({"candidate_workers": some_decoders, "exclude_workers": some_decoders}),
    st.fixed_dictionaries({"worker_selector": st.sampled_from([{"zone": "a"}, {"zone": "b"}])}),
    st.fixed_dictionaries({"pinned_worker": decoders}),
)
calls = st.builds(
    lambda fields, filters: fields | filters,
    st.fixed_dictionaries(
        {
            "counts": st.none() | counts,
            "num_sequences": st.integers(1, 3),
            "prompt_tokens": st.sampled_from([0, 100]),
            "expected_output_tokens": st.sampled_from([0, 7]),
            "lease_seconds": st.sampled_from([2.0, 2.0, 4.0, 10.0, 1_000.0, None]),
        }
    ),
    filters,
)


def answer_of(placed):
    booking = placed.booking
    kept = ("lease_id", "targets", "reason", "policy", "partition_version", "similarity", "stale")
    return [getattr(booking, name) for name in kept]


class Bookings(RuleBasedStateMachine, Contract):
    steps = 0

    def __init__(self):
        RuleBasedStateMachine.__init__(self)
        Contract.__init__(self)
        type(self).steps -= 1  # the invariant is looked at once before the first step
        self.told = Told()
        limits = Limits(lease_seconds=8.0, report_limit=REPORT_LIMIT)
        self.router = Router(POLICIES[0], self.told, limits)
        self.workers = Workers(self.router, SqliteStore(None), 0)
        self.partitions = Partitions(self.router, self.workers, Records(SqliteStore(None)))
        for partition in PARTITIONS:
            self.partitions.add(partition)
        self.model = self.router.model(MODEL)
        self.settled = True  # what ran out has been ended: leases are only looked at when called
        self.old_incarnations: list[int] = []
        self.active, self.history = 0, []
        self.last_calls: dict[str, RouteCall] = {}
        for name, group in zip(("w0", "w1", "w2", "prefill"), ("g", "h", "", "g"), strict=True):
            role = WorkerRole.PREFILL if name == "prefill" else WorkerRole.DECODE
            spec = WorkerSpec(name, role, group=group, labels={"zone": "a"}, capacity_sequences=6)
            self.join(spec, "READY")

    # Requests

    def name(self, request):
        known, live = list(self.last_calls), list(self.live)
        if live and request > 2:
            return live[request % len(live)]
        return known[-request] if 0 < request <= len(known) else f"r{len(known)}"

    def route(self, call):
        self.settled = True
        booking = self.live.get(call.request_id)
        past = self.past.get(call.request_id, ModelPast())
        if booking and booking.call.attempt == call.attempt:
            if booking.call.fingerprint != call.fingerprint:
                return self.refused(call, FailedPreconditionError)
            placed = self.router.route(call, self.now)
            assert placed.repeated
            assert answer_of(placed) == booking.answer
            booking.expires = self.now + placed.booking.lease_seconds
            return None
        routed = [a for a, how in past.attempts.items() if how != "early"]
        routed += [booking.call.attempt] if booking else []
        if past.attempts.get(call.attempt) in ("final", "early") or call.attempt < max(
            routed, default=0
        ):
            return self.refused(call, FailedPreconditionError)
        earlier = (booking.call.attempt, booking.worker) if booking else past.last_worker
        if booking:
            self.end(call.request_id, "final")
        allowed = self.allowed(call)
        eligible = {name for name in allowed if not self.full(name)}
        if not eligible:
            return self.refused(call, ResourceExhaustedError if allowed else UnavailableError)
        placed = self.router.route(call, self.now)
        tried_last = earlier[1] if earlier[0] < call.attempt else ""
        names = [target.worker_id for target in placed.booking.targets]
        assert not placed.repeated
        assert placed.booking.worker_id == names[0]
        assert set(names) <= eligible
        assert len(set(names)) == len(names) == min(4, len(eligible))
        assert tried_last not in names[:-1] or eligible == {tried_last}
        assert names[0] in self.preferred(eligible - {tried_last} or eligible)
        lease = call.lease_seconds or 8.0
        self.live[call.request_id] = ModelBooking(
            call,
            names[0],
            lease_id=placed.booking.lease_id,
            expires=self.now + lease,
            answer=answer_of(placed),
        )
        return None

    def preferred(self, names):
        """Those to be avoided least; when that is so, the tests of standing say."""
        fleet = self.model.fleet
        avoided = {name: fleet.avoidance(fleet.row(name)) for name in names}
        return {name for name in names if avoided[name] == min(avoided.values())}

    def refused(self, call, error):
        try:
            self.router.route(call, self.now)
        except error:
            return
        raise AssertionError(f"{call} was not refused by {error}")

    def call(self, request_id, attempt, fields):
        written = repr(sorted((k, v) for k, v in fields.items() if k != "counts"))
        call = RouteCall(MODEL, request_id, attempt, fingerprint=hash(written), **fields)
        self.last_calls[request_id] = call
        self.expire()
        self.route(call)

    @rule(fields=calls)
    def route_new(self, fields):
        self.call(self.name(0), 0, fields)

    @rule(request=requests, change=st.sampled_from([-1, 0, 1]), fields=calls)
    def route_known(self, request, change, fields):
        last = self.last_calls.get(self.name(request))
        self.call(self.name(request), max(0, last.attempt + change) if last else 0, fields)

    @rule(request=requests, change=st.sampled_from([0, 0, 0, 1]))
    def route_the_same(self, request, change):
        if call := self.last_calls.get(self.name(request)):
            call = self.last_calls[call.request_id] = call._replace(attempt=call.attempt + change)
            self.expire()
            self.route(call)

    @rule(request=requests, fields=calls)
    def dry_run(self, request, fields):
        before = (self.model.decisions, len(self.model.bookings))
        call = RouteCall(MODEL, self.name(request), dry_run=True, **fields)
        self.settled = True
        self.expire()
        allowed = self.allowed(call)
        eligible = {name for name in allowed if not self.full(name)}
        if not eligible:
            self.refused(call, ResourceExhaustedError if allowed else UnavailableError)
        else:
            placed = self.router.route(call, self.now)
            assert placed.booking.lease_id == ""
            assert placed.booking.worker_id in eligible
            passed = {score.worker_id for score in placed.scores if not score.ineligible_reason}
            assert passed == self.preferred(eligible)
        assert self.model.decisions == before[0]
        assert len(self.model.bookings) <= before[1]  # leases may have run out

    @rule(
        request=requests,
        change=st.sampled_from([-1, 0, 0, 0, 1]),
        lease=st.sampled_from(["", "right", "wrong"]),
    )
    def release(self, request, change, lease):
        request_id = self.name(request)
        self.settled = True
        self.expire()
        booking = self.live.get(request_id)
        last = self.last_calls.get(request_id)
        attempt = max(0, (last.attempt if last else 0) + change)
        live = booking is not None and booking.call.attempt == attempt
        lease_id = booking.lease_id if lease == "right" and booking else lease
        result, ended = self.router.release(
            MODEL, request_id, attempt, self.now, lease_id=lease_id, output_tokens=5
        )
        assert (ended is not None) == (result is ReleaseResult.RELEASED)
        if live and lease == "wrong":
            assert result is ReleaseResult.UNKNOWN
        elif live:
            assert result is ReleaseResult.RELEASED
            assert ended.lease_id == booking.lease_id
            self.end(request_id, "final")
        else:
            before = self.past.get(request_id, ModelPast()).attempts.get(attempt)
            known = before is not None
            assert result is (ReleaseResult.ALREADY_RELEASED if known else ReleaseResult.UNKNOWN)
            if before in (None, "again"):
                self.remember(request_id, attempt, "final" if known else "early")

    @rule(names=st.lists(st.tuples(requests, st.sampled_from(["", "right", "wrong"])), max_size=4))
    def renew(self, names):
        self.settled = True
        self.expire()
        asked, expected = [], []
        for request, lease in names:
            request_id = self.name(request)
            booking = self.live.get(request_id)
            attempt = booking.call.attempt if booking else 0
            lease_id = booking.lease_id if booking and lease == "right" else lease
            asked.append((request_id, attempt, lease_id))
            if booking is None or lease == "wrong":
                expected.append(asked[-1])
            else:
                booking.expires = self.now + (booking.call.lease_seconds or 8.0)
        assert self.router.renew(MODEL, asked, self.now) == expected

    # Time

    @rule(
        seconds=st.sampled_from([0.5, 1.0, 1.0, 1.5, 1.5, 2.5, 4.0, 15.0, 700.0]),
        tick=st.booleans(),
    )
    def time_passes(self, seconds, tick):
        self.now += seconds
        self.expire()
        self.settled = tick
        if not tick:
            return
        silent = self.router.tick(self.now)
        self.workers.remove_silent(silent, self.now)
        for name in [n for n, w in self.fleet.items() if w.drain_until <= self.now]:
            self.end_all_on(name)
        for name in [n for n, w in self.fleet.items() if w.alive_until <= self.now]:
            self.end_all_on(name)
            del self.fleet[name]
        self.forget()

    # Workers

    @rule(
        name=decoders,
        state=st.sampled_from(["READY", "READY", "JOINING"]),
        capacity=st.integers(1, 6),
        group=st.sampled_from(["", "", "g", "h"]),
        zone=st.sampled_from("ab"),
        ttl=st.sampled_from([0.0, 0.0, 15.0]),
    )
    def register(self, name, state, capacity, group, zone, ttl):
        self.join(
            WorkerSpec(
                name,
                group=group,
                labels={"zone": zone},
                capacity_sequences=capacity,
                time_to_live=ttl,
            ),
            state,
        )

    @rule(group=st.sampled_from(["", "g", "h"]))
    def register_prefill(self, group):
        self.join(WorkerSpec("prefill", WorkerRole.PREFILL, group=group), "READY")

    def join(self, spec, state):
        incarnation = self.workers.register(MODEL, spec, WorkerState[state], None, self.now)
        if old := self.fleet.get(spec.worker_id):
            assert incarnation > old.incarnation
            self.old_incarnations.append(old.incarnation)
            self.end_all_on(spec.worker_id)
        until = self.now + spec.time_to_live if spec.time_to_live else float("inf")
        self.fleet[spec.worker_id] = ModelWorker(
            spec, state, incarnation=incarnation, alive_until=until
        )

    @rule(name=decoders, capacity=st.integers(1, 6), zone=st.sampled_from("ab"))
    def register_the_same_life(self, name, capacity, zone):
        worker = self.fleet.get(name)
        if worker is None:
            return
        spec = replace(worker.spec, labels={"zone": zone}, capacity_sequences=capacity)
        life = worker.incarnation
        again = self.workers.register(
            MODEL, spec, WorkerState.READY, None, self.now, incarnation=life
        )
        assert again == life
        worker.spec = spec
        if worker.state == "JOINING":
            worker.state = "READY"
        if spec.time_to_live:
            worker.alive_until = self.now + spec.time_to_live

    @rule(
        name=decoders,
        seconds=st.sampled_from([math.inf, math.inf, 1.0, 3.0]),
        returns=st.sampled_from([True, True, True, False]),
    )
    def drain(self, name, seconds, returns):
        if name not in self.fleet:
            return self.unknown(lambda: self.workers.drain(MODEL, name))
        left = self.workers.drain(MODEL, name, until=self.now + seconds)
        assert not self.settled or left == self.booked(name)
        self.fleet[name].state = "DRAINING"
        self.fleet[name].drain_until = self.now + seconds
        if returns:
            self.join(self.fleet[name].spec, "READY")
        return None

    @rule(
        name=decoders,
        life=st.sampled_from(["any", "this", "another", "another"]),
        returns=st.sampled_from([True, True, True, False]),
    )
    def remove(self, name, life, returns):
        known = self.fleet.get(name)
        incarnation = {"any": 0, "this": known.incarnation if known else 1, "another": 10**9}[life]
        if known is None or life == "another":
            return self.unknown(lambda: self.workers.remove(MODEL, name, incarnation, self.now))
        ended = self.workers.remove(MODEL, name, incarnation, self.now)
        assert self.end_all_on(name) == ended or not self.settled
        self.old_incarnations.append(known.incarnation)
        del self.fleet[name]
        if returns:
            self.join(known.spec, "READY")
        return None

    def unknown(self, call):
        try:
            call()
        except NotFoundError:
            return
        raise AssertionError("an unknown worker was found")

    @rule(
        name=decoders,
        left_out=st.frozensets(requests, max_size=3),
        foreign=st.integers(0, 2),
        late=st.booleans(),
        old=st.booleans(),
        state=st.sampled_from(["READY", "READY", "JOINING", "DRAINING", "GONE"]),
    )
    def one_reports(self, name, left_out, foreign, late, old, state):
        self.report([name], map(self.name, left_out), foreign, late, old, state)

    @rule(seconds=st.sampled_from([0.5, 1.0, 1.5]), left_out=st.integers(0, 2))
    def all_report(self, seconds, left_out):
        self.now += seconds
        self.report(list(self.fleet), list(self.live)[:left_out])

    def report(self, names, left_out, foreign=0, late=False, old=False, state="READY"):
        left_out = set(left_out)
        for name in names:
            if name in self.fleet:
                self.settled = True
                self.expire()
                self.report_one(name, left_out, foreign, late, old, state)

    def report_one(self, name, left_out, foreign, late, old, state):
        worker = self.fleet[name]
        incarnation = worker.incarnation
        if old and self.old_incarnations:
            incarnation = self.old_incarnations[-1]
        here = {r: b for r, b in self.live.items() if b.worker == name}
        running = here.keys() - left_out
        stray = ("nobody's", 1)
        held = (*((r, here[r].call.attempt) for r in running), stray)
        number = worker.number if late else worker.number + 1
        said = LoadReport(
            incarnation, number, held=held, foreign_sequences=foreign, state=WorkerState[state]
        )
        accepted, unknown = self.workers.report(MODEL, name, said, self.now)
        assert accepted == (incarnation == worker.incarnation and number > worker.number)
        if not accepted:
            assert unknown == []
            return
        if state == "GONE":
            assert unknown == list(held)
            self.end_all_on(name)
            self.old_incarnations.append(incarnation)
            del self.fleet[name]
            return
        assert unknown == [stray]
        worker.number, worker.foreign, worker.reported_at = number, foreign, self.now
        if worker.spec.time_to_live:
            worker.alive_until = self.now + worker.spec.time_to_live
        if state == "DRAINING" or (state == "READY" and worker.state == "JOINING"):
            worker.state = state
        for request_id, booking in here.items():
            if request_id in running:
                booking.seen, booking.absences = True, 0
                booking.expires = self.now + (booking.call.lease_seconds or 8.0)
            elif booking.seen:
                booking.absences += 1
                if booking.absences == 2:
                    self.end(request_id, "again")

    # Policy and partition

    @rule(policy=st.sampled_from(POLICIES))
    def set_policy(self, policy):
        self.model.set_policy(policy())

    @rule(version=st.integers(1, len(PARTITIONS)))
    def activate(self, version):
        self.partitions.activate(MODEL, version)
        if self.active not in (0, version):
            self.history.append(self.active)
        self.active = version

    @precondition(lambda self: self.history)
    @rule()
    def roll_back(self):
        self.active = self.history.pop()
        assert self.partitions.rollback(MODEL).version == self.active

    # What must be so after every step

    @invariant()
    def counts_agree(self):
        type(self).steps += 1
        if not self.settled:
            return
        fleet, bookings = self.model.fleet, list(self.model.bookings)
        living = {b.request_id: (b.attempt, b.worker_id, b.lease_id) for b in bookings}
        assert living == {r: (b.call.attempt, b.worker, b.lease_id) for r, b in self.live.items()}
        assert {fleet.spec(row).worker_id for row in fleet.rows()} == set(self.fleet)
        for name, worker in self.fleet.items():
            row = fleet.row(name)
            record = fleet.record(row)
            here = [b for b in self.live.values() if b.worker == name]
            assert record["booked_sequences"] == sum(b.call.num_sequences for b in here)
            assert record["booked_tokens"] == sum(b.tokens for b in here)
            assert record["unseen_tokens"] == sum(b.tokens for b in here if not b.seen)
            assert fleet.state(row).name == worker.state
            assert fleet.incarnation(row) == worker.incarnation
        assert sum(b.num_sequences for b in bookings) == sum(map(fleet.booked, fleet.rows()))

    @invariant()
    def everybody_was_told_once(self):
        if not self.settled:
            return
        assert self.told.ended_leases == self.leases_ended
        policy = self.model.policy
        assert policy.wrong == []
        assert max(policy.begun.values(), default=1) == 1
        assert max(policy.ended.values(), default=1) == 1
        assert set(policy.alive) == {booking.lease_id for booking in self.live.values()}

    @invariant()
    def slots_are_in_use(self):
        if not self.active:
            assert self.model.partition is None
            return
        assert self.model.partition.version == self.active
        bound = self.model.bindings.slot_of
        assert {self.model.fleet.spec(row).worker_id for row in bound} == {
            name
            for name, worker in self.fleet.items()
            if worker.spec.role is WorkerRole.DECODE and worker.state != "DRAINING"
        }
        assert len(set(bound.values())) == min(len(bound), self.model.partition.num_slots)


def test_ten_thousand_steps():
    run_state_machine_as_test(
        Bookings,
        settings=settings(
            max_examples=250,
            stateful_step_count=60,
            derandomize=True,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert Bookings.steps >= 10_000
