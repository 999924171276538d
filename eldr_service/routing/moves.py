"""Running requests that may move to another worker, and when each may be proposed."""

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

import structlog

from eldr_service.core.booking import Booking
from eldr_service.core.decision import FleetSnapshot
from eldr_service.core.errors import ResourceExhaustedError, UnavailableError
from eldr_service.core.fleet import Fleet
from eldr_service.core.worker import Avoidance, WorkerSpec
from eldr_service.policies.policy import Policy
from eldr_service.routing.call import RouteCall
from eldr_service.routing.decide import apply_filters

log = structlog.get_logger(__name__)

CANDIDATES = 16
"""Requests that a policy looks at after an event: each costs it a look at every worker."""

Key = tuple[str, int]


class Proposal(NamedTuple):
    """A move that may be made; nothing has changed by it.

    Attributes
    ----------
    booking : Booking
        Of the request, where it is.
    target : WorkerSpec
        Where it would go on.
    gain_seconds : float
        Predicted for all requests together, less what moving costs.
    """

    booking: Booking
    target: WorkerSpec
    gain_seconds: float


class Movable:
    """The bookings of a model that may move.

    Each rests after it was booked, and after it was proposed: so nothing is moved back and forth,
    and a proposal that is not taken up is made once in that time at most.

    Parameters
    ----------
    rest_seconds : float
    """

    def __init__(self, rest_seconds: float) -> None:
        self._rest_seconds = rest_seconds
        self._calls: dict[Key, tuple[Booking, RouteCall, str]] = {}
        self._ready: dict[Key, Booking] = {}
        self._resting: deque[tuple[float, Booking]] = deque()  # all rest as long: in order of time

    def __len__(self) -> int:
        """How many there are, those that rest included."""
        return len(self._calls)

    def add(self, booking: Booking, call: RouteCall, group: str, now: float) -> None:
        """A booking that may move, the call that asked for it, and its prefill worker's group."""
        self._calls[booking.key] = booking, call._replace(counts=None), group
        self._rest(booking, now)

    def remove(self, booking: Booking) -> None:
        """A booking has ended."""
        self._calls.pop(booking.key, None)
        self._ready.pop(booking.key, None)

    def propose(
        self, policy: Policy, fleet: Fleet, snapshot: Callable[[float], FleetSnapshot], now: float
    ) -> Proposal | None:
        """The move that the policy would make now, if it would make one.

        `snapshot` gives the fleet as the policy wants to see it.
        """
        candidates = self._by_turns(now)
        if not candidates:
            return None
        seen = snapshot(now)
        eligible = seen.eligible & (seen.sequences < seen.capacity)
        if seen.avoided is not None:
            eligible &= seen.avoided == Avoidance.NONE
        try:
            move = policy.move(candidates, seen.narrowed(eligible))
            if move and not (move.booking in candidates and eligible[move.worker]):
                raise ValueError(f"{move} is no move of a candidate to an eligible worker")
        except Exception:  # a policy is anyone's code
            log.exception("policy failed", policy=policy.name)
            return None
        if move is None:
            return None
        booking = move.booking
        del self._ready[booking.key]
        self._rest(booking, now)
        _, call, group = self._calls[booking.key]
        pinned = call._replace(pinned_worker=seen.worker_ids[move.worker])
        try:
            apply_filters(pinned, seen, fleet.groups, group, "")
        except (UnavailableError, ResourceExhaustedError):  # the request may not go there
            return None
        return Proposal(booking, fleet.spec(int(seen.rows[move.worker])), move.gain_seconds)

    def _by_turns(self, now: float) -> list[Booking]:
        """A few of those that may be proposed now, others at each call."""
        while self._resting and self._resting[0][0] <= now:
            booking = self._resting.popleft()[1]
            if self._lives(booking):
                self._ready[booking.key] = booking
        candidates = list(islice(self._ready.values(), CANDIDATES))
        for booking in candidates:
            self._ready[booking.key] = self._ready.pop(booking.key)
        return candidates

    def _rest(self, booking: Booking, now: float) -> None:
        while self._resting and not self._lives(self._resting[0][1]):
            self._resting.popleft()  # also where no proposal is asked for
        self._resting.append((now + self._rest_seconds, booking))

    def _lives(self, booking: Booking) -> bool:
        known = self._calls.get(booking.key)
        return known is not None and known[0] is booking  # not the same attempt placed again
