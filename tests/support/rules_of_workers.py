"""Rules of a stateful test: workers join, drain, leave and report."""

import math
from dataclasses import replace

from contract_model import Contract, ModelWorker
from hypothesis import strategies as st
from hypothesis.stateful import rule
from rules_of_requests import MODEL, decoders, requests

from eldr_service.core.errors import NotFoundError
from eldr_service.core.worker import LoadReport, WorkerRole, WorkerSpec, WorkerState
from eldr_service.routing.workers import Workers


class WorkerRules(Contract):
    """Applied to `workers`; `settled` is false while expired bookings may not have ended yet."""

    workers: Workers
    settled: bool
    old_incarnations: list[int]

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
