"""The leases that blocks hold, and when each must be renewed."""

import datetime
import time
from collections.abc import Iterable
from dataclasses import dataclass

from eldr.v1.router_pb2 import LeaseReference, RenewLeasesRequest, RouteRequest

from eldr_client.placement import HeldPlacement

# Renewals per lifetime of a lease, and at most per second.
_RENEWALS_PER_LIFE = 3
_LEAST_PERIOD = 0.1
# Leases this close to being due, as a share of their period, are renewed along with due ones.
_SLACK = 0.1
_MAX_PER_MESSAGE = 1_000

Key = tuple[str, str, int]


@dataclass(slots=True)
class _Held:
    lease_id: str
    period: float
    due: float


class Renewals:
    """The leases held by one client's blocks.

    Thread-safe: `hold` and `let_go` are one dictionary operation each. Times are in seconds of the
    monotonic clock.
    """

    def __init__(self) -> None:
        self._held: dict[Key, _Held] = {}

    def hold(self, request: RouteRequest, placement: HeldPlacement) -> float | None:
        """Renew this lease from now on. Returns when it is first due; None if nothing is booked."""
        if placement.lease_expires_at is None:
            return None
        life = (placement.lease_expires_at - datetime.datetime.now(datetime.UTC)).total_seconds()
        period = max(life / _RENEWALS_PER_LIFE, _LEAST_PERIOD)
        due = time.monotonic() + period
        self._held[_key(request)] = _Held(placement.lease_id, period, due)
        return due

    def let_go(self, request: RouteRequest) -> None:
        """The request's block has ended."""
        self._held.pop(_key(request), None)

    def requests(self) -> list[RouteRequest]:
        """The requests whose blocks run, by identity alone."""
        return [
            RouteRequest(model=model, request_id=request_id, attempt=attempt)
            for model, request_id, attempt in list(self._held)
        ]

    def next_due(self) -> float | None:
        """When the next renewal is due; None if no lease is held."""
        return min((held.due for held in list(self._held.values())), default=None)

    def take_due(self) -> list[RenewLeasesRequest]:
        """The requests to send now; each lease in them is due again one period later."""
        now = time.monotonic()
        by_model: dict[str, list[LeaseReference]] = {}
        for (model, request_id, attempt), held in list(self._held.items()):
            if held.due - _SLACK * held.period <= now:
                held.due = now + held.period
                by_model.setdefault(model, []).append(
                    LeaseReference(request_id=request_id, attempt=attempt, lease_id=held.lease_id)
                )
        return [
            RenewLeasesRequest(model=model, leases=leases[first : first + _MAX_PER_MESSAGE])
            for model, leases in by_model.items()
            for first in range(0, len(leases), _MAX_PER_MESSAGE)
        ]

    def ended(self, model: str, leases: Iterable[LeaseReference]) -> list[str]:
        """Forget leases unknown to the router; return the requests whose blocks held them."""
        return [
            lease.request_id
            for lease in leases
            if self._held.pop((model, lease.request_id, lease.attempt), None) is not None
        ]


def _key(request: RouteRequest) -> Key:
    return request.model, request.request_id, request.attempt
