"""The contract of bookings in plain dicts, with which the router is compared."""

import math
from collections import Counter
from dataclasses import KW_ONLY, dataclass, field

from eldr_service.core.worker import WorkerRole, WorkerSpec
from eldr_service.routing.call import RouteCall

REPORT_LIMIT = 5.0  # seconds that a worker's report counts
REMEMBERED = 600.0  # seconds that an ended attempt is remembered


@dataclass
class ModelWorker:
    spec: WorkerSpec
    state: str
    _: KW_ONLY
    incarnation: int
    alive_until: float
    number: int = -1
    foreign: int = 0
    reported_at: float = -1e9
    drain_until: float = math.inf


@dataclass
class ModelBooking:
    call: RouteCall
    worker: str
    _: KW_ONLY
    lease_id: str
    expires: float
    answer: list
    seen: bool = False
    absences: int = 0
    awaits: bool = False  # its signature is not complete
    knew: bool = False  # a part of it was known when it was placed

    @property
    def tokens(self):
        return self.call.prompt_tokens + (
            self.call.num_sequences * self.call.expected_output_tokens
        )


@dataclass
class ModelPast:
    """Ended attempts of a request: "final" ones cannot be placed again, "early" ones never were."""

    attempts: dict = field(default_factory=dict)
    last_worker: tuple = (-1, "")
    until: float = 0.0
    own_until: dict = field(default_factory=dict)  # per attempt: a store need not keep it longer


class Contract:
    """Workers, bookings and ends, as router.proto and fleet.proto define them."""

    def __init__(self, now=1_000.0, report_limit=REPORT_LIMIT):
        self.now = now
        self.report_limit = report_limit
        self.fleet: dict[str, ModelWorker] = {}
        self.live: dict[str, ModelBooking] = {}
        self.past: dict[str, ModelPast] = {}
        self.leases_ended = Counter()

    def end(self, request_id, how):
        booking = self.live.pop(request_id)
        self.leases_ended[booking.lease_id] += 1
        past = self.remember(request_id, booking.call.attempt, how)
        past.last_worker = (booking.call.attempt, booking.worker)

    def supersede(self, call):
        """End the previous attempt, unless this one is pinned elsewhere and cannot go there."""
        booking = self.live.get(call.request_id)
        moves = booking and call.pinned_worker not in ("", booking.worker)
        if booking and not (moves and not self.eligible(call)):
            self.end(call.request_id, "final")

    def eligible(self, call):
        return {name for name in self.allowed(call) if not self.full(name)}

    def remember(self, request_id, attempt, how):
        past = self.past.setdefault(request_id, ModelPast())
        past.attempts[attempt] = how
        past.until = past.own_until[attempt] = self.now + REMEMBERED
        return past

    def forget(self):
        for request_id in [r for r, past in self.past.items() if past.until <= self.now]:
            del self.past[request_id]

    def end_all_on(self, worker):
        gone = [r for r, booking in self.live.items() if booking.worker == worker]
        for request_id in gone:
            self.end(request_id, "again")
        return len(gone)

    def expire(self):
        for request_id in [r for r, b in self.live.items() if b.expires <= self.now]:
            self.end(request_id, "again")

    def booked(self, worker):
        return sum(b.call.num_sequences for b in self.live.values() if b.worker == worker)

    def tokens(self, worker):
        return sum(b.tokens for b in self.live.values() if b.worker == worker)

    def load(self, worker):
        known = self.fleet[worker]
        fresh = self.now - known.reported_at <= self.report_limit
        return (self.booked(worker) + known.foreign * fresh) / known.spec.capacity_sequences

    def full(self, worker):
        return self.load(worker) >= 1

    def allowed(self, call):
        prefill = self.fleet.get(call.prefill_worker)
        group = prefill.spec.group if prefill else ""
        return {
            name
            for name, worker in self.fleet.items()
            if worker.state == "READY"
            and worker.spec.role is WorkerRole.DECODE
            and (not group or worker.spec.group in ("", group))
            and (not call.pinned_worker or name == call.pinned_worker)
            and (not call.candidate_workers or name in call.candidate_workers)
            and name not in call.exclude_workers
            and all(worker.spec.labels.get(k) == v for k, v in call.worker_selector.items())
        }
