"""A random life of one model, told to any driver and compared with the contract in plain dicts.

A driver carries operations out: on the router itself (`books_in_process`), on a daemon over a socket
(`books_over_socket`), or on one of several replicas, drawn for each operation. It refuses by raising
`Refusing` with the name of the gRPC code, and says what time it is.
"""

import random
import zlib
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from contract_model import Contract, ModelBooking, ModelPast, ModelWorker

from eldr_service.core.activation import ActivationCounts
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.worker import LoadReport, WorkerRole, WorkerSpec, WorkerState
from eldr_service.routing.call import RouteCall

MODEL = "books"
GEOMETRY = ModelGeometry(2, 8, 2)
PARTITIONS = 3
LOAD_ONLY = ("round-robin", "random", "join-shortest-queue", "power-of-two-choices")
BY_SIGNATURE = ("locality", "locality-band", "marginal-cost")
WORKERS = ("w0", "w1", "w2", "w3", "w4")
LEASE_SECONDS, SIGNATURE_SECONDS = 900.0, 600.0
TRACE = 40  # operations that a failure shows


class Refusing(Exception):  # noqa: N818 - no error here: an answer
    """The operation was refused, with this code."""


class Answered(NamedTuple):
    """What a Route said, the same in a repeat but for `repeated` and `early`."""

    worker: str
    lease_id: str
    reason: str
    policy: str
    partition: int
    repeated: bool
    early: bool


class Sums(NamedTuple):
    """What is booked on a worker; tokens are -1 where the driver cannot see them."""

    state: str
    incarnation: int
    sequences: int
    tokens: int
    load: float


@dataclass(frozen=True)
class Chances:
    """What a driver can take. Seconds."""

    report_limit: float
    leases: tuple[float | None, ...]
    steps: tuple[float, ...]  # that time may take at once
    restart: float  # chance per operation
    time_to_live: tuple[float, ...] = (0.0,)
    margin: float = 0.0  # within which the driver's clock and the server's may differ


class Driver(Protocol):
    """Carries operations out."""

    chances: Chances

    def now(self) -> float: ...
    def pass_time(self, seconds: float) -> None: ...
    def route(self, call: RouteCall) -> Answered: ...
    def release(self, request_id: str, attempt: int, lease_id: str) -> str: ...
    def renew(self, leases: list[tuple[str, int, str]]) -> list[tuple[str, int, str]]: ...
    def register(self, spec: WorkerSpec, state: WorkerState) -> int: ...
    def drain(self, worker: str) -> int: ...
    def remove(self, worker: str, incarnation: int) -> int: ...
    def report(self, worker: str, report: LoadReport) -> tuple[bool, list[tuple[str, int]]]: ...
    def signature(self, request_id: str, epoch: int, sequence: int, last: bool,
                  counts: ActivationCounts) -> bool: ...  # fmt: skip
    def set_policy(self, name: str) -> None: ...
    def activate(self, version: int) -> None: ...
    def restart(self) -> None: ...
    def sums(self) -> dict[str, Sums]: ...
    def check(self, living: dict[str, tuple[int, str, str]]) -> None:
        """Look at what only this driver sees; request -> (attempt, worker, lease)."""


def counts_of(kind: int, seed: int) -> ActivationCounts:
    rng = np.random.default_rng([kind, seed])
    share = np.where(np.arange(8) % 4 == kind, 8.0, 1.0)
    drawn = rng.multinomial(20, share / share.sum(), size=2).astype(np.uint16)
    return ActivationCounts(GEOMETRY, 0, drawn, 10)


COUNTS = [counts_of(kind, seed) for kind in range(4) for seed in range(4)]


class Life(Contract):
    """One life, all of it from its seed: `run(n)` says and checks the next n operations."""

    def __init__(self, driver: Driver, seed: int) -> None:
        chances = driver.chances
        super().__init__(driver.now(), chances.report_limit)
        self.driver, self.chances, self.chance = driver, chances, random.Random(seed)
        self.seed, self.done, self.trace = seed, 0, deque(maxlen=TRACE)
        self.names, self.calls = 0, {}  # the latest call of each request of late
        self.held = {}  # signatures: request -> [epoch, set of sequences, touched]
        self.old_lives, self.policy, self.active = [], "", 0
        self.set_policy()
        for worker in WORKERS[:3]:
            self.join(WorkerSpec(worker, capacity_sequences=6, group="g"), WorkerState.READY)
        self.join(WorkerSpec("prefill", WorkerRole.PREFILL, group="g"), WorkerState.READY)

    def run(self, operations: int, check_every: int = 25) -> None:
        kinds = {
            self.route_new: 28, self.route_again: 14, self.release: 26, self.renew: 5,
            self.report: 8, self.signature: 8, self.pass_time: 4, self.register: 2, self.drain: 1,
            self.remove: 1, self.set_policy: 0.4, self.activate: 0.6,
            self.restart: 100 * chances.restart if (chances := self.chances).restart else 0,
        }  # fmt: skip
        drawn = self.chance.choices(list(kinds), list(kinds.values()), k=operations)
        try:
            for number, operation in enumerate(drawn, start=1):
                self.settle()
                operation()
                self.done += 1
                if number % check_every == 0 or number == operations:
                    self.settle()
                    self.check()
        except BaseException as error:
            said = "\n".join(self.trace)
            error.add_note(f"seed {self.seed}, after {self.done} operations, the latest:\n{said}")
            raise

    # Time

    def settle(self) -> None:
        """Bring the clock up, past any moment at which the answer would depend on who looks."""
        self.now, margin = self.driver.now(), self.chances.margin
        ends = [b.expires for b in self.live.values()]
        ends += [w.alive_until for w in self.fleet.values()]
        ends += [past.until for past in self.past.values()] if margin else []
        while margin and (near := [e for e in ends if -margin < e - self.now < margin]):
            self.driver.pass_time(max(near) - self.now + margin)
            self.now = self.driver.now()
        self.expire()
        if margin:
            self.time_passed()

    def pass_time(self) -> None:
        seconds = self.chance.choice(self.chances.steps)
        self.say(f"{seconds} s pass")
        self.driver.pass_time(seconds)
        self.now = self.driver.now()
        self.expire()
        self.time_passed()

    def time_passed(self) -> None:
        """What a server that ticks has noticed."""
        for name in [n for n, w in self.fleet.items() if w.alive_until <= self.now]:
            self.end_all_on(name)
            del self.fleet[name]
        self.forget()
        for request_id in [
            r for r, (_, _, touched) in self.held.items()
            if touched + SIGNATURE_SECONDS <= self.now
        ]:  # fmt: skip
            del self.held[request_id]

    # Requests

    def some_request(self) -> str:
        """A living one, or one of late; none whose earlier ends may be forgotten by now or not."""
        alive = self.live and self.chance.random() < 0.6
        request_id = self.chance.choice(list(self.live if alive else self.calls) or ["none"])
        past = self.past.get(request_id, ModelPast())
        return "none" if min(past.own_until.values(), default=1e99) <= self.now else request_id

    def fields(self) -> dict:
        chance = self.chance
        fields = {
            "num_sequences": chance.choice((1, 1, 1, 2, 3)),
            "prompt_tokens": chance.choice((0, 100)),
            "expected_output_tokens": chance.choice((0, 7)),
            "lease_seconds": chance.choice(self.chances.leases),
        }
        if chance.random() < 0.6:
            fields["counts"] = chance.choice(COUNTS)
        match chance.randrange(14):
            case 0:
                fields["candidate_workers"] = frozenset(chance.sample(WORKERS, 2))
            case 1:
                fields["exclude_workers"] = frozenset(chance.sample(WORKERS, 2))
            case 2:
                fields["worker_selector"] = {"zone": chance.choice("ab")}
            case 3:
                fields["pinned_worker"] = chance.choice(WORKERS)
            case 4:
                fields["prefill_worker"] = chance.choice(("prefill", "nobody"))
        return fields

    def route_new(self) -> None:
        self.names += 1
        self.route(f"r{self.names}", 0, self.fields())

    def route_again(self) -> None:
        request_id = self.some_request()
        if not (last := self.calls.get(request_id)):
            return
        if self.chance.random() < 0.5:  # the very same, or as it was but for the attempt
            more = self.chance.choice((0, 0, 1)) if last.attempt < 20 else 0
            self.send(last._replace(attempt=last.attempt + more))
        else:
            attempt = max(0, last.attempt + self.chance.choice((-1, 0, 1)))
            self.route(request_id, min(attempt, 20), self.fields())

    def route(self, request_id: str, attempt: int, fields: dict) -> None:
        self.send(RouteCall(MODEL, request_id, attempt, **fields))

    def send(self, call: RouteCall) -> None:
        self.calls.pop(call.request_id, None)
        self.calls[call.request_id] = call
        if len(self.calls) > 60:
            del self.calls[next(iter(self.calls))]
        self.say(f"route {call._replace(counts=call.counts and '...')}")
        booking, past = self.live.get(call.request_id), self.past.get(call.request_id, ModelPast())
        if booking and booking.call.attempt == call.attempt:
            if print_of(booking.call) != print_of(call):
                return self.refused("FAILED_PRECONDITION", self.driver.route, call)
            said = self.driver.route(call)
            assert said.repeated
            assert list(said[:5]) == booking.answer
            assert said.early == (booking.knew and booking.awaits)
            booking.expires = self.now + self.lease_of(booking)
            return None
        routed = [a for a, how in past.attempts.items() if how != "early"]
        routed += [booking.call.attempt] if booking else []
        if past.attempts.get(call.attempt) in ("final", "early") or call.attempt < max(
            routed, default=0
        ):
            return self.refused("FAILED_PRECONDITION", self.driver.route, call)
        earlier = (booking.call.attempt, booking.worker) if booking else past.last_worker
        if booking:
            self.end(call.request_id, "final")
        allowed = self.allowed(call)
        eligible = {name for name in allowed if not self.full(name)}
        if not eligible:
            code = "RESOURCE_EXHAUSTED" if allowed else "UNAVAILABLE"
            return self.refused(code, self.driver.route, call)
        if earlier[0] < call.attempt and eligible != {earlier[1]}:
            eligible.discard(earlier[1])
        loads = {name: self.load(name) for name in eligible}
        said = self.driver.route(call)
        reason = self.reason(call)
        assert not said.repeated
        assert said.reason == reason
        assert said.policy == self.policy
        assert said.worker in eligible
        knew = call.counts is None and call.request_id in self.held
        awaits = call.counts is None and not self.is_complete(call.request_id)
        assert said.early == (knew and awaits)
        if reason.startswith("LEAST_LOADED"):
            assert loads[said.worker] == min(loads.values())
        self.live[call.request_id] = ModelBooking(
            call,
            said.worker,
            lease_id=said.lease_id,
            expires=self.now + (call.lease_seconds or LEASE_SECONDS),
            answer=list(said[:5]),
            awaits=awaits,
            knew=knew,
        )
        return None

    def reason(self, call: RouteCall) -> str:
        if call.pinned_worker:
            return "PINNED"
        if self.policy in LOAD_ONLY:
            return "POLICY"
        if call.counts is None and call.request_id not in self.held:
            return "LEAST_LOADED_NO_SIGNATURE"
        if not self.active and self.policy != "marginal-cost":
            return "LEAST_LOADED_NO_PARTITION"
        return "LOCALITY_BAND" if self.policy == "locality-band" else "POLICY"

    def lease_of(self, booking: ModelBooking) -> float:
        return booking.call.lease_seconds or LEASE_SECONDS

    def refused(self, code: str, call, *what) -> None:
        try:
            said = call(*what)
        except Refusing as refusing:
            assert refusing.args[0] == code, f"{refusing} instead of {code}"
        else:
            raise AssertionError(f"{said} instead of {code}")

    def release(self) -> None:
        request_id = self.some_request()
        if self.chance.random() < 0.03:
            self.names += 1
            request_id = f"r{self.names}"  # its Route comes later, or never
            self.calls[request_id] = RouteCall(MODEL, request_id)
        booking, last = self.live.get(request_id), self.calls.get(request_id)
        attempt = booking.call.attempt if booking else last.attempt if last else 0
        attempt = max(0, attempt + self.chance.choice((-1, 0, 0, 0, 0, 0, 1)))
        lease = self.chance.choice(("", "", "right", "wrong"))
        lease_id = booking.lease_id if booking and lease == "right" else lease
        self.say(f"release {request_id} attempt {attempt} lease {lease_id!r}")
        said = self.driver.release(request_id, attempt, lease_id)
        if booking and booking.call.attempt == attempt:
            if lease == "wrong":
                assert said == "UNKNOWN"
                return
            assert said == "RELEASED"
            self.end(request_id, "final")
            self.held.pop(request_id, None)
            return
        before = self.past.get(request_id, ModelPast()).attempts.get(attempt)
        assert said == ("ALREADY_RELEASED" if before else "UNKNOWN"), f"{said}, before: {before}"
        if before in (None, "again"):
            self.remember(request_id, attempt, "final" if before else "early")
        if booking is None:
            self.held.pop(request_id, None)

    def renew(self, everything: bool = False) -> None:
        chosen = list(self.live) if everything else [self.some_request() for _ in range(3)]
        asked, unknown = [], []
        for request_id in chosen:
            booking = self.live.get(request_id)
            lease = "right" if everything else self.chance.choice(("", "right", "wrong"))
            lease_id = booking.lease_id if booking and lease == "right" else lease
            asked.append((request_id, booking.call.attempt if booking else 0, lease_id))
            if booking is None or lease == "wrong":
                unknown.append(asked[-1])
            else:
                booking.expires = self.now + self.lease_of(booking)
        self.say(f"renew {asked}")
        assert self.driver.renew(asked) == unknown

    # Signatures

    def is_complete(self, request_id: str) -> bool:
        return request_id in self.held and self.held[request_id][1] == {0, 1}

    def signature(self) -> None:
        if self.chance.random() < 0.5:
            self.names += 1
            request_id = f"r{self.names}"
            self.calls[request_id] = RouteCall(MODEL, request_id)
        else:
            request_id = self.some_request()
        epoch, sequence = self.chance.choice((0, 0, 0, 1)), self.chance.randrange(2)
        counts = COUNTS[(epoch + 5 * sequence + len(request_id)) % len(COUNTS)]
        held = self.held.get(request_id)
        self.say(f"signature {request_id} epoch {epoch} sequence {sequence}")
        chunk = (request_id, epoch, sequence, sequence == 1, counts)
        if held and epoch < held[0]:
            return self.refused("FAILED_PRECONDITION", self.driver.signature, *chunk)
        if held is None or epoch > held[0]:
            held = self.held[request_id] = [epoch, set(), 0.0]
        held[1].add(sequence)
        held[2] = self.now
        assert self.driver.signature(*chunk) == self.is_complete(request_id)
        if self.is_complete(request_id) and (booking := self.live.get(request_id)):
            booking.awaits = False
        return None

    # Workers

    def register(self) -> None:
        chance = self.chance
        spec = WorkerSpec(
            chance.choice(WORKERS),
            group=chance.choice(("", "", "g", "h")),
            labels={"zone": chance.choice("ab")},
            capacity_sequences=chance.randrange(2, 9),
            time_to_live=chance.choice(self.chances.time_to_live),
        )
        if chance.random() < 0.1:
            spec = WorkerSpec("prefill", WorkerRole.PREFILL, group=chance.choice(("", "g", "h")))
        self.join(spec, chance.choice((WorkerState.READY, WorkerState.READY, WorkerState.JOINING)))

    def join(self, spec: WorkerSpec, state: WorkerState) -> None:
        self.say(f"register {spec} {state.name}")
        life = self.driver.register(spec, state)
        if old := self.fleet.get(spec.worker_id):
            assert life > old.incarnation
            self.old_lives.append(old.incarnation)
            self.end_all_on(spec.worker_id)
        until = self.now + spec.time_to_live if spec.time_to_live else float("inf")
        self.fleet[spec.worker_id] = ModelWorker(
            spec, state.name, incarnation=life, alive_until=until
        )

    def drain(self) -> None:
        worker = self.chance.choice(WORKERS)
        self.say(f"drain {worker}")
        if worker not in self.fleet:
            return self.refused("NOT_FOUND", self.driver.drain, worker)
        assert self.driver.drain(worker) == self.booked(worker)
        self.fleet[worker].state = "DRAINING"
        return self.join(self.fleet[worker].spec, WorkerState.READY) if self.is_rare(0.6) else None

    def remove(self) -> None:
        worker, life = self.chance.choice(WORKERS), self.chance.choice(("any", "this", "another"))
        known = self.fleet.get(worker)
        incarnation = {"any": 0, "this": known.incarnation if known else 1, "another": 1 << 60}[life]
        self.say(f"remove {worker} life {incarnation}")
        if known is None or life == "another":
            return self.refused("NOT_FOUND", self.driver.remove, worker, incarnation)
        assert self.driver.remove(worker, incarnation) == self.end_all_on(worker)
        del self.fleet[worker]
        return self.join(known.spec, WorkerState.READY) if self.is_rare(0.7) else None

    def is_rare(self, share: float) -> bool:
        return self.chance.random() < share

    def report(self) -> None:
        chance = self.chance
        if not (here := [w for w in WORKERS if w in self.fleet]):
            return
        name = chance.choice(here)
        worker = self.fleet[name]
        mine = {(r, b.call.attempt): b for r, b in self.live.items() if b.worker == name}
        held = [key for key in mine if chance.random() < 0.8]
        strange = [("stranger", 0)] if chance.random() < 0.2 else []
        old = self.old_lives and chance.random() < 0.1
        life = self.old_lives[-1] if old else worker.incarnation
        number = worker.number + chance.choice((1, 1, 1, 2, 0, -1))
        state = chance.choice(("READY",) * 12 + ("JOINING", "DRAINING", "GONE"))
        report = LoadReport(
            life,
            max(0, number),
            held=(*held, *strange, *held[:1]),
            foreign_sequences=chance.choice((0, 0, 1)),
            active_experts=chance.uniform(2, 8),
            batch_size=chance.uniform(1, 4),
            step_seconds=chance.uniform(0.005, 0.02),
            state=WorkerState[state],
        )
        self.say(f"{name} reports {report}")
        accepted, unknown = self.driver.report(name, report)
        assert accepted == (life == worker.incarnation and report.number > worker.number)
        if not accepted:
            assert unknown == []
            return
        if state == "GONE":
            assert set(unknown) == set(report.held)
            self.end_all_on(name)
            self.old_lives.append(life)
            del self.fleet[name]
            return
        assert unknown == strange
        worker.number, worker.reported_at = report.number, self.now
        worker.foreign = report.foreign_sequences
        if worker.spec.time_to_live:
            worker.alive_until = self.now + worker.spec.time_to_live
        if state == "DRAINING" or (state == "READY" and worker.state == "JOINING"):
            worker.state = state
        for key, booking in mine.items():
            if key in held:
                booking.seen, booking.absences = True, 0
                booking.expires = self.now + self.lease_of(booking)
            elif booking.seen:
                booking.absences += 1
                if booking.absences == 2:
                    self.end(key[0], "again")

    # Policy, partition, restart

    def set_policy(self) -> None:
        self.policy = self.chance.choice(LOAD_ONLY + BY_SIGNATURE + ("marginal-cost",))
        self.say(f"policy {self.policy}")
        self.driver.set_policy(self.policy)

    def activate(self) -> None:
        self.active = self.chance.randrange(1, PARTITIONS + 1)
        self.say(f"activate {self.active}")
        self.driver.activate(self.active)

    def restart(self) -> None:
        """A crash between two answers: what was acknowledged is there, and lives on."""
        self.say("restart")
        self.driver.restart()
        self.now = self.driver.now()
        for worker in self.fleet.values():
            worker.number, worker.foreign, worker.reported_at = -1, 0, -1e9
            if worker.spec.time_to_live:
                worker.alive_until = self.now + worker.spec.time_to_live
        for booking in self.live.values():
            booking.absences = 0
        for past in self.past.values():
            for attempt in [a for a, until in past.own_until.items() if until <= self.now]:
                del past.attempts[attempt], past.own_until[attempt]
        self.held.clear()
        self.renew(everything=True)  # none may be gone
        self.check()

    # What must be so

    def check(self) -> None:
        said = self.driver.sums()
        assert set(said) == set(self.fleet)
        for name, worker in self.fleet.items():
            sums = said[name]
            assert (sums.state, sums.incarnation) == (worker.state, worker.incarnation), name
            assert sums.sequences == self.booked(name) >= 0, name
            assert sums.tokens in (-1, self.tokens(name)), name
            if worker.spec.role is WorkerRole.DECODE:
                assert abs(sums.load - self.load(name)) < 1e-9, name
        living = self.live.items()
        self.driver.check({r: (b.call.attempt, b.worker, b.lease_id) for r, b in living})

    def say(self, what: str) -> None:
        self.trace.append(f"{self.now:.3f} {what}")


def print_of(call: RouteCall) -> int:
    """Tells payloads apart: what a repeat must have alike."""
    fields = [sorted(f) if isinstance(f, frozenset) else f for f in call[4:15]]
    return zlib.crc32(repr((fields, id(call.counts))).encode())
