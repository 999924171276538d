"""Requests of a random life: routed, released, renewed, with early and late signatures."""

import random

import pytest
from books import (
    COUNTS,
    LEASE_SECONDS,
    LOAD_ONLY,
    MODEL,
    WORKERS,
    Chances,
    Driver,
    Refusing,
    print_of,
)
from contract_model import Contract, ModelBooking, ModelPast

from eldr_service.routing.call import RouteCall


class Requests(Contract):
    """What callers do; each method gives an operation to the driver and checks its outcome."""

    driver: Driver
    chances: Chances
    chance: random.Random
    policy: str
    active: int

    def __init__(self, now: float, report_limit: float) -> None:
        super().__init__(now, report_limit)
        self.names, self.calls = 0, {}  # the latest call of each recent request
        self.held = {}  # signatures: request -> [epoch, set of sequences, touched]

    def some_request(self) -> str:
        """A living or recent request, except those whose earlier ends may be forgotten by now."""
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
        if self.chance.random() < 0.5:  # the same call, or only with another attempt
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
            if self.knows_all(call.request_id):
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
        self.supersede(call)
        eligible = self.eligible(call)
        if not eligible:
            code = "RESOURCE_EXHAUSTED" if self.allowed(call) else "UNAVAILABLE"
            return self.refused(code, self.driver.route, call)
        knows = self.knows_all(call.request_id)
        if knows and earlier[0] < call.attempt and eligible != {earlier[1]}:
            eligible.discard(earlier[1])
        loads = {name: self.load(name) for name in eligible}
        said = self.driver.route(call)
        reason = self.reason(call)
        assert not said.repeated
        assert said.reason == reason or not knows
        assert said.policy == self.policy
        assert said.worker in eligible
        knew = call.counts is None and call.request_id in self.held
        awaits = call.counts is None and not self.is_complete(call.request_id)
        assert said.early == (knew and awaits) or not knows
        if reason.startswith("LEAST_LOADED") and self.knows_all():
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

    def knows_all(self, request_id: str = "") -> bool:
        """Whether any server asked knows all operations so far, on one request or on all."""
        return True

    def lease_of(self, booking: ModelBooking) -> float:
        return booking.call.lease_seconds or LEASE_SECONDS

    def refused(self, code: str, call, *what) -> None:
        with pytest.raises(Refusing) as refusing:
            call(*what)
        assert refusing.value.args == (code,)

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

    def say(self, what: str) -> None:
        self.trace.append(f"{self.now:.3f} {what}")
