"""The client's protocol logic, without I/O: what it asks the router, and how it reads answers.

Each procedure is a generator that yields the next `Call` or `Pause`, is sent the call's response
(or thrown its gRPC error), and returns its result. The sync and asyncio clients only carry out the
steps. Closing a procedure half way means that its caller gave up.
"""

import logging
import math
import random
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from eldr.v1.router_pb2 import (
    ReleaseRequest,
    ReleaseResponse,
    RouteRequest,
    StreamSignaturesRequest,
    StreamSignaturesResponse,
)
from eldr.v1.router_pb2 import ReleaseResult as ReleaseResultNumber

from eldr_client.breaker import Breaker
from eldr_client.errors import (
    EldrError,
    RouterFaultError,
    RouterUnavailableError,
    from_rpc_error,
    from_status,
)
from eldr_client.fallback import FallbackPool
from eldr_client.messages import having_waited, release_request, waits
from eldr_client.placement import Placement, ReleaseOutcome, ReleaseResult
from eldr_client.renewals import Renewals

logger = logging.getLogger("eldr_client")

T = TypeVar("T")
P = TypeVar("P", bound=Placement)

# Seconds before the second and third try. The second helps if a connection broke during the call,
# the third if the router is back: gRPC refuses for 100 ms after a failed attempt to connect.
_RETRY_PAUSES = (0.025, 0.1)
# Most releases kept until the router returns; older ones are left to expire with their leases.
_MAX_UNSENT = 10_000


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC of RouterService; `timeout` in seconds."""

    method: str
    request: Any
    timeout: float


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause of so many seconds."""

    seconds: float


Procedure = Generator[Call | Pause, Any, T]


class Conversation:
    """One client's state: whether the router answers, fallback workers, pending releases."""

    def __init__(self, pool: FallbackPool, timeout: float, has_replicas: bool) -> None:
        self.pool = pool
        self.timeout = timeout
        self._has_replicas = has_replicas
        self.closing = False
        self.renewals = Renewals()
        self._breaker = Breaker()
        self._unsent: deque[ReleaseRequest] = deque(maxlen=_MAX_UNSENT)

    @property
    def router_is_down(self) -> bool:
        """Whether the last call got no answer, and no probe has since."""
        return self._breaker.is_open

    @property
    def has_chores(self) -> bool:
        """Whether `chores` has something to do."""
        if self.closing and self._breaker.is_open:
            return False
        return self._breaker.is_open or bool(self._unsent)

    def call(self, method: str, request: Any, timeout: float | None = None) -> Procedure[Any]:
        """One RPC, retried (it is idempotent) while there is no answer and time is left.

        The waits that the request asks for are added to the timeout; a retry asks for what is left
        of them. With replicas, a try takes its waits and at most half of the rest, so that a frozen
        replica leaves time to ask another.

        Raises
        ------
        RouterUnavailableError
            There was no answer, or the breaker is open.
        EldrError
            The router's answer is an error.
        """
        began = time.monotonic()
        wait = waits(request)
        deadline = began + (self.timeout if timeout is None else timeout) + wait
        pauses = iter(_RETRY_PAUSES)
        attempt = request
        while True:
            if self._breaker.is_open:
                yield Pause(0)  # lets an event loop get to its probes
                raise RouterUnavailableError(
                    "the router does not answer", grpc.StatusCode.UNAVAILABLE
                )
            pause = next(pauses, math.inf) * random.uniform(1.0, 1.25)
            passed = time.monotonic() - began
            left = deadline - began - passed
            if self._has_replicas and pause < left:
                patience = max(wait - passed, 0.0)
                left = patience + max(left - patience, 0.0) / 2
            try:
                return (yield Call(method, attempt, max(left, 0.001)))
            except grpc.RpcError as error:
                failure = from_rpc_error(error)
                if not isinstance(failure, RouterUnavailableError):
                    raise failure from error
                late = time.monotonic() + pause >= deadline
                hung = failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
                if late or (hung and not self._has_replicas):
                    self._breaker.trip(request.model, failure)
                    raise failure from error
            yield Pause(pause)
            if wait:
                attempt = having_waited(request, time.monotonic() - began)

    def route(self, request: RouteRequest, timeout: float | None, kind: type[P]) -> Procedure[P]:
        """Place a request by the router, or by the fallback pool when the router does not answer.

        A caller that gives up before it has the placement must `disown` the request.

        Raises
        ------
        RouterUnavailableError
            The router does not answer, and no known worker may serve the request.
        """
        asked = not self._breaker.is_open
        try:
            response = yield from self.call("Route", request, timeout)
        except (RouterUnavailableError, RouterFaultError) as error:
            if asked:
                self.disown(request)
            if isinstance(error, RouterFaultError):
                logger.warning("falling back for %s: %s", request.request_id, error)
            placement = self.pool.place(request)
            if placement is None:
                raise RouterUnavailableError(
                    f"{error}, and no other worker of {request.model} is known", error.code
                ) from error
            return kind.of(placement)
        placement = kind.from_proto(response.placement)
        self.pool.learn(request.model, placement)
        return placement

    def signature(
        self, request: StreamSignaturesRequest, timeout: float | None
    ) -> Procedure[Placement | None]:
        """Add a chunk over the stream; returns the placement if `request` has a `route`.

        A caller that gives up before it has the placement must `disown` the route.
        """
        places = request.HasField("route")
        asked = not self._breaker.is_open
        try:
            response: StreamSignaturesResponse = yield from self.call(
                "StreamSignatures", request, timeout
            )
        except (RouterUnavailableError, RouterFaultError):
            if places and asked:
                self.disown(request.route)
            raise
        if response.HasField("status"):
            raise from_status(response.status)
        if not places:
            return None
        placement = Placement.from_proto(response.placement)
        self.pool.learn(request.model, placement)
        return placement

    def release(
        self, request: ReleaseRequest, timeout: float | None = None
    ) -> Procedure[ReleaseResult | None]:
        """End a booking. Returns None if the router does not answer; it is told when it does."""
        try:
            response: ReleaseResponse = yield from self.call("Release", request, timeout)
        except RouterUnavailableError:
            self._unsent.append(request)
            return None
        except EldrError:
            raise  # the router has received it
        except BaseException:  # abandoned, perhaps by an interrupt; the booking must still end
            self._unsent.append(request)
            raise
        name = ReleaseResultNumber.Name(response.result).removeprefix("RELEASE_RESULT_")
        return ReleaseResult(name)

    def farewell(self, request: ReleaseRequest) -> Procedure[None]:
        """`release` when leaving a block, where an error would hide the block's own."""
        try:
            yield from self.release(request)
        except EldrError as error:
            logger.warning("the release of %s was refused: %s", request.request_id, error)

    def renew(self) -> Procedure[None]:
        """Renew the held leases that are due. A failed renewal is due again later."""
        for request in self.renewals.take_due():
            try:
                response = yield from self.call("RenewLeases", request)
            except EldrError as error:
                logger.warning("%d leases were not renewed: %s", len(request.leases), error)
                continue
            for request_id in self.renewals.ended(request.model, response.unknown):
                logger.warning("the booking of %s ended before its block", request_id)

    def chores(self) -> Procedure[None]:
        """Background work: probe for the router, then send pending releases."""
        pauses = self._breaker.probe_pauses()
        while self.has_chores:
            if self._breaker.is_open:
                yield Pause(next(pauses))
                yield from self._probe()
                continue
            pauses = self._breaker.probe_pauses()
            try:
                request = self._unsent.popleft()
            except IndexError:
                return  # abandoned meanwhile
            yield from self.farewell(request)

    def abandon(self) -> None:
        """Leave pending releases to the expiry of their leases."""
        if self._unsent:
            logger.warning("%d releases are left to expire", len(self._unsent))
            self._unsent.clear()

    def _probe(self) -> Procedure[None]:
        try:
            yield Call("Route", self._breaker.probe(), self.timeout)
        except grpc.RpcError as error:
            if isinstance(from_rpc_error(error), RouterUnavailableError):
                return
        self._breaker.close()

    def disown_held(self) -> None:
        """End the bookings of blocks that still run: nothing renews them from now on."""
        for request in self.renewals.requests():
            self.disown(request)

    def disown(self, request: RouteRequest) -> None:
        """End a booking that may exist without a known lease, by the request's identity."""
        self.renewals.let_go(request)
        if not request.dry_run:
            self._unsent.append(
                release_request(
                    request.model,
                    request.request_id,
                    attempt=request.attempt,
                    outcome=ReleaseOutcome.CANCELLED,
                )
            )
