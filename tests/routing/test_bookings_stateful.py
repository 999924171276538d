"""Random lives of a fleet and its bookings, against the contract in plain dicts."""

import numpy as np
from contract_model import REPORT_LIMIT, Contract
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
from rules_of_requests import GEOMETRY, MODEL, RequestRules
from rules_of_workers import WorkerRules

from eldr_service.core.partition import Partition
from eldr_service.core.signature import SignatureTransform
from eldr_service.core.worker import WorkerRole, WorkerSpec
from eldr_service.policies.join_shortest_queue import JoinShortestQueue
from eldr_service.policies.locality_band import LocalityBand
from eldr_service.policies.power_of_two_choices import PowerOfTwoChoices
from eldr_service.policies.round_robin import RoundRobin
from eldr_service.routing.call import RouteCall
from eldr_service.routing.partitions import Partitions
from eldr_service.routing.records import Records
from eldr_service.routing.router import Limits, Router
from eldr_service.routing.workers import Workers
from eldr_service.stores.sqlite import SqliteStore

POLICIES = [recording(p) for p in (RoundRobin, JoinShortestQueue, PowerOfTwoChoices, LocalityBand)]
PARTITIONS = [
    Partition(MODEL, SignatureTransform(GEOMETRY), np.eye(4, dtype=np.float32)[:slots])
    for slots in (1, 2, 3)
]


class Bookings(RuleBasedStateMachine, RequestRules, WorkerRules):
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
