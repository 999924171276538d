"""Rules of a stateful test: requests are placed, repeated, released, renewed."""

import numpy as np
from contract_model import Contract, ModelBooking, ModelPast
from hypothesis import strategies as st
from hypothesis.stateful import rule

from eldr_service.core.activation import ActivationCounts
from eldr_service.core.errors import (
    FailedPreconditionError,
    ResourceExhaustedError,
    UnavailableError,
)
from eldr_service.core.geometry import ModelGeometry
from eldr_service.routing.call import RouteCall
from eldr_service.routing.router import ReleaseResult, Router

MODEL = "model"
GEOMETRY = ModelGeometry(1, 4, 1)

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


class RequestRules(Contract):
    """Applied to `router`; `settled` is false while expired bookings may not have ended yet."""

    router: Router
    settled: bool
    last_calls: dict[str, RouteCall]

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
        self.supersede(call)
        eligible = self.eligible(call)
        if not eligible:
            full = self.allowed(call)
            return self.refused(call, ResourceExhaustedError if full else UnavailableError)
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
        """The workers with the least avoidance, which the tests of standing check."""
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
        eligible = self.eligible(call)
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
