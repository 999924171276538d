"""RouterService: signatures in, placements out."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial

import grpc
from eldr.v1 import router_pb2 as pb
from eldr.v1 import router_pb2_grpc

from eldr_service.core.booking import Booking
from eldr_service.core.errors import (
    EldrError,
    FailedPreconditionError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
)
from eldr_service.core.signature_buffer import HeldSignature
from eldr_service.routing.call import RouteCall
from eldr_service.routing.place import Placed
from eldr_service.routing.router import ReleaseOutcome, ReleaseResult, Router
from eldr_service.server.durability import Durability
from eldr_service.server.replicas.replica import Replica
from eldr_service.server.rpc import reading, writing
from eldr_service.server.rpc.caller import CALLER
from eldr_service.server.rpc.errors import DeadlineExceededError, abort, status_code, to_status
from eldr_service.server.rpc.moves import MoveWatchers
from eldr_service.server.rpc.places import Places
from eldr_service.server.rpc.spans import CallSpans
from eldr_service.server.rpc.streams import Answer, Settle, answer_each, unbooked
from eldr_service.server.rpc.telemetry import Telemetry
from eldr_service.server.rpc.turns import slices
from eldr_service.server.rpc.unary import unary
from eldr_service.server.rpc.waiting import SignatureWaiters
from eldr_service.stores.shared.operations import told_of

SLICE = 500
"""Leases renewed in one step, about a millisecond."""
MOST_DECISIONS = 8
"""Decisions per request: whenever one lost, another replica won, so the fleet progresses."""
_SIGNATURE_FIELDS = ("model", "request_id", "prefill_worker")


class RouterService(router_pb2_grpc.RouterServiceServicer):
    """Reads messages, lets the router decide, writes answers.

    Attributes
    ----------
    places : Places
        Calls that wait for a place on a worker; at most `max_waiting`.
    """

    def __init__(
        self,
        router: Router,
        telemetry: Telemetry,
        max_waiting: int,
        durability: Durability | None = None,
        replica: Replica | None = None,
        spans: CallSpans | None = None,
    ) -> None:
        self.telemetry = telemetry
        self.places = Places(self._decide, self._give_back, max_waiting)
        telemetry.on_room, telemetry.waiting = self.places.free, self.places.of
        self._router = router
        self._keeper = replica or durability
        self._replica = replica
        self._spans = spans
        self._written = self._keeper.written if self._keeper else nothing_to_wait_for
        # A replica's placements are final once all replicas have them.
        self._placed = nothing_to_wait_for if replica else self._written
        self._waiters = SignatureWaiters()
        self._moves = MoveWatchers(router.propose_move)
        self._fetching: set[asyncio.Task[None]] = set()
        if replica:
            replica.on_signature = self._signature_elsewhere

    @unary
    async def RegisterSignature(  # noqa: N802
        self, request: pb.RegisterSignatureRequest, context: grpc.aio.ServicerContext
    ) -> pb.RegisterSignatureResponse:
        """Add one chunk."""
        return await self._register_for_all(request)

    async def StreamSignatures(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.StreamSignaturesRequest],
        context: grpc.aio.ServicerContext,
    ) -> None:
        """Add chunks, and place the requests whose chunk asks for it."""
        answer: Answer[pb.StreamSignaturesRequest, pb.StreamSignaturesResponse]
        answer = self._stream_signature
        if self._spans:
            answer = self._spans.around_messages("StreamSignatures", context, answer)
        await answer_each(
            context,
            answer,
            lambda r: bool(self._replica) or (r.HasField("route") and _waits(r.route)),
            self._placed,
        )

    @unary
    async def Route(  # noqa: N802
        self, request: pb.RouteRequest, context: grpc.aio.ServicerContext
    ) -> pb.RouteResponse:
        """Place one request."""
        # A call cancelled while it waited in line ends here, before it is booked.
        await asyncio.sleep(0)
        response = pb.RouteResponse()
        settle = await self._route(request, response.placement)
        reached = False
        try:
            if written := self._placed():
                await written
            reached = context.time_remaining() != 0
        finally:
            settle(reached)
        if not reached:
            raise DeadlineExceededError("the call's deadline was over before its answer was there")
        return response

    async def RouteStream(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.RouteStreamRequest],
        context: grpc.aio.ServicerContext,
    ) -> None:
        """Place requests as they come."""
        answer: Answer[pb.RouteStreamRequest, pb.RouteStreamResponse] = self._stream_route
        if self._spans:
            answer = self._spans.around_messages("RouteStream", context, answer)
        await answer_each(context, answer, lambda r: bool(self._replica) or _waits(r), self._placed)

    @unary
    async def Release(  # noqa: N802
        self, request: pb.ReleaseRequest, context: grpc.aio.ServicerContext
    ) -> pb.ReleaseResponse:
        """End a booking."""
        model, request_id = reading.model_name(request), reading.request_id(request)
        decode_counts = (
            reading.activation_counts("decode_counts", request.decode_counts)
            if request.HasField("decode_counts")
            else None
        )
        outcome = reading.choice("outcome", ReleaseOutcome, request.outcome)
        decode_seconds = reading.seconds(
            "decode_duration", request.decode_duration, 0.0, reading.LEASE_SECONDS[1]
        )
        result, booking = self._router.release(
            model,
            request_id,
            request.attempt,
            time.monotonic(),
            lease_id=request.lease_id,
            outcome=outcome,
            output_tokens=request.output_tokens,
            decode_seconds=decode_seconds,
            decode_counts=decode_counts,
        )
        if self._replica:
            counts = decode_counts.counts if decode_counts else None
            told = partial(told_of, request.output_tokens, decode_seconds, counts)
            result = await self._released_for_all(model, request, told, result, booking)
        self.telemetry.released(model, request, outcome, result, booking)
        self._moves.changed(model)
        if written := self._written():
            await written
        return pb.ReleaseResponse(result=f"RELEASE_RESULT_{result.name}")

    @unary
    async def RenewLeases(  # noqa: N802
        self, request: pb.RenewLeasesRequest, context: grpc.aio.ServicerContext
    ) -> pb.RenewLeasesResponse:
        """Keep bookings alive."""
        model = reading.model_name(request)
        if len(request.leases) > reading.MAX_LISTED:
            raise InvalidArgumentError(
                "leases", f"at most {reading.MAX_LISTED} leases", len(request.leases)
            )
        leases: list[tuple[str, int, str]] = []
        unknown: list[tuple[str, int, str]] = []
        async for part in slices(request.leases, SLICE):
            named = [(lease.request_id, lease.attempt, lease.lease_id) for lease in part]
            leases += named
            unknown += self._router.renew(model, named, time.monotonic())
        if written := self._written():
            await written
        if self._replica:
            unknown = await self._unknown_to_all(model, leases)
        response = pb.RenewLeasesResponse()
        async for some in slices(unknown, SLICE):
            for request_id, attempt, lease_id in some:
                response.unknown.add(request_id=request_id, attempt=attempt, lease_id=lease_id)
        return response

    async def WatchMoves(  # noqa: N802
        self, request: pb.WatchMovesRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchMovesResponse]:
        """Answer with every proposed move."""
        try:
            model = reading.model_name(request)
            async for proposal in self._moves.watch(model):
                yield writing.move(model, proposal)
        except EldrError as error:
            self.telemetry.refused(self, "WatchMoves", status_code(error), error)
            await abort(context, error)

    @unary
    async def Explain(  # noqa: N802
        self, request: pb.ExplainRequest, context: grpc.aio.ServicerContext
    ) -> pb.ExplainResponse:
        """Explain why a request was placed as it was."""
        model, request_id = reading.model_name(request), reading.request_id(request)
        attempt = request.attempt if request.HasField("attempt") else None
        now = time.monotonic()
        found = self._router.explain(model, request_id, attempt, now)
        return writing.explanation(model, found, now)

    async def _register_for_all(
        self, request: pb.RegisterSignatureRequest | pb.StreamSignaturesRequest
    ) -> pb.RegisterSignatureResponse:
        """Add a chunk; it is acknowledged once every replica can have it."""
        response = self._register(request)
        if self._replica:
            sent = self._share(request)
            if written := self._written():
                await written
            held = self._router.signatures.get(request.model, request.request_id)
            if held and sent and sent[0] > held.num_chunks:  # some went to other replicas
                return await self._registered_by_all(request, held)
        return response

    async def _registered_by_all(
        self, request: pb.RegisterSignatureRequest | pb.StreamSignaturesRequest, held: HeldSignature
    ) -> pb.RegisterSignatureResponse:
        """Answer by all that the replicas received."""
        await self._fetch_signature(request.model, request.request_id, again=True)
        held = self._router.signatures.get(request.model, request.request_id) or held
        if held.epoch > request.epoch:
            raise FailedPreconditionError(
                f"epoch {request.epoch} is below epoch {held.epoch}, which is held"
            )
        return pb.RegisterSignatureResponse(tokens_held=held.tokens_held, complete=held.complete)

    def _share(
        self, request: pb.RegisterSignatureRequest | pb.StreamSignaturesRequest
    ) -> list[int]:
        if self._replica is None:
            return []
        message = request.SerializeToString()  # a stream's message has the same fields, and more
        seconds = self._router.limits.signature_ttl
        return self._replica.share_signature(request.model, request.request_id, seconds, message)

    def _register(
        self, request: pb.RegisterSignatureRequest | pb.StreamSignaturesRequest
    ) -> pb.RegisterSignatureResponse:
        model, request_id = reading.model_name(request), reading.request_id(request)
        if not request.HasField("counts"):
            raise InvalidArgumentError("counts", "the chunk's activation counts", "nothing")
        total = request.total_chunks or request.sequence + 1 if request.last else 0
        held = self._router.register_signature(
            model,
            request_id,
            request.epoch,
            reading.activation_counts("counts", request.counts),
            sequence=request.sequence,
            total_chunks=total,
            prompt_tokens=request.prompt_tokens if request.last else 0,
            prefill_worker=reading.text(
                "prefill_worker", request.prefill_worker, reading.MAX_WORKER_ID
            ),
            fingerprint=reading.fingerprint(request.counts),
            now=time.monotonic(),
        )
        if held.complete:
            self._waiters.complete((model, request_id))
        return pb.RegisterSignatureResponse(tokens_held=held.tokens_held, complete=held.complete)

    async def _route(
        self, request: pb.RouteRequest | pb.RouteStreamRequest, answer: pb.Placement
    ) -> Settle:
        """Place a request and write the answer; returns what to call when it is sent."""
        call = reading.route_call(request)
        wait = reading.wait_seconds(request)
        max_wait, priority = reading.place_in_line(request)
        if wait and call.counts is None:
            if self._replica:  # once this replica knows that a call waits
                self._fetch_soon(call.model, call.request_id)
            await self._wait_for_signature(call, wait)
        place = partial(self._place, priority=priority, until=time.monotonic() + max_wait)
        placed = await (self._agree(call, place) if self._replica else place(call))
        writing.write_placement(answer, placed, time.monotonic())
        if call.dry_run:
            return unbooked
        answer.unsaved = self._keeper is not None and not self._keeper.is_safe
        return partial(self._settle, call.model, placed.booking)

    async def _place(self, call: RouteCall, priority: int, until: float) -> Placed:
        """Place a request by this view, after waiting for a place if it may wait."""
        self.places.serve_before(call.model)
        try:
            return self._decide(call)
        except ResourceExhaustedError as full:
            left = until - time.monotonic()
            if left <= 0 or full.within is None or call.dry_run:
                raise
            with self.telemetry.waits():
                caller = CALLER.get().name
                return await self.places.wait(call, caller, priority, left, full)

    def _decide(self, call: RouteCall) -> Placed:
        began = time.perf_counter()
        placed = self._router.route(call, time.monotonic())
        seconds = time.perf_counter() - began
        if self._replica:  # reported once all replicas have it
            placed = replace(placed, seconds=seconds)
        else:
            self.telemetry.placed(call, placed, seconds)
        placed.booking.waiting += 1
        self._moves.changed(call.model)
        return placed

    def _give_back(self, model: str, placed: Placed) -> None:
        self._settle(model, placed.booking, False)

    async def _agree(
        self, call: RouteCall, place: Callable[[RouteCall], Awaitable[Placed]]
    ) -> Placed:
        """Place a request with all replicas' agreement, again if another was first."""
        assert self._replica
        if not self._replica.is_current(time.monotonic()):
            await self._replica.current()
        if call.counts is None:
            await self._fetch_signature(call.model, call.request_id)
        refused = False
        for _ in range(MOST_DECISIONS):
            if self._supersedes(call):  # another replica may have seen this attempt end
                await self._replica.look_again(call.model, call.request_id)
            try:
                placed = await place(call)
            except (FailedPreconditionError, ResourceExhaustedError, UnavailableError):
                if refused or not await self._replica.look_again(call.model, call.request_id):
                    raise
                refused = True  # by an old view
                continue
            if call.dry_run:
                return placed
            agreed = False
            try:
                agreed = not await self._replica.decided(placed.booking) and (
                    not placed.repeated
                    or await self._replica.still_lives(call.model, placed.booking)
                )
            finally:  # a cancelled call leaves no booking behind
                if not agreed:
                    self._settle(call.model, placed.booking, False)
            if agreed:
                self.telemetry.placed(call, placed, placed.seconds)
                return placed
            call = call._replace(insists=True)
        raise UnavailableError(
            f"request {call.request_id}: other replicas were first {MOST_DECISIONS} times"
        )

    def _supersedes(self, call: RouteCall) -> bool:
        """Whether a lower attempt lives, which placing this one would end."""
        known = self._router.models.get(call.model)
        booking = known.bookings.live(call.request_id) if known else None
        return booking is not None and booking.attempt < call.attempt

    async def _fetch_signature(self, model: str, request_id: str, again: bool = False) -> None:
        """Fetch what other replicas received of a signature that is incomplete here."""
        assert self._replica
        held = self._router.signatures.get(model, request_id)
        if held and held.complete and not again:
            return
        for message in await self._replica.signature(model, request_id):
            with contextlib.suppress(EldrError):  # its sender got the error
                self._register(pb.RegisterSignatureRequest.FromString(message))

    def _signature_elsewhere(self, model: str, request_id: str) -> None:
        """Another replica received part of a signature: a call here may wait for it."""
        known = self._router.models.get(model)
        booking = known and known.bookings.live(request_id)
        if self._waiters.waits((model, request_id)) or (booking and booking.awaits_signature):
            self._fetch_soon(model, request_id)

    def _fetch_soon(self, model: str, request_id: str) -> None:
        task = asyncio.create_task(self._fetch_signature(model, request_id))
        self._fetching.add(task)
        task.add_done_callback(self._fetching.discard)

    async def _released_for_all(
        self,
        model: str,
        request: pb.ReleaseRequest,
        told: Callable[[], str],
        result: ReleaseResult,
        booking: Booking | None,
    ) -> ReleaseResult:
        """What a release means to the shared state, whatever it did to this view."""
        assert self._replica
        if booking:
            word = await self._replica.found_released(booking)
        if booking is None or word == "gone":  # unknown here, or placed again elsewhere
            word = await self._replica.released(
                model, request.request_id, request.attempt, request.lease_id, told()
            )
        match word:
            case "ended":
                return ReleaseResult.RELEASED
            case "known":
                return ReleaseResult.ALREADY_RELEASED
            case "gone":
                return ReleaseResult.UNKNOWN
        return result

    async def _unknown_to_all(
        self, model: str, leases: list[tuple[str, int, str]]
    ) -> list[tuple[str, int, str]]:
        """The leases that are not alive: those unknown to this view may be elsewhere."""
        assert self._replica
        bookings = self._router.model(model).bookings
        return [
            lease
            async for part in slices(leases, SLICE)
            for lease in part
            if not bookings.find(*lease)
            and not await self._replica.renewed_elsewhere(model, *lease)
        ]

    def _settle(self, model: str, booking: Booking, reached: bool) -> None:
        self._router.answered(model, booking, reached, time.monotonic())

    async def _wait_for_signature(self, call: RouteCall, timeout: float) -> None:
        def is_complete() -> bool:
            held: HeldSignature | None = self._router.signatures.get(call.model, call.request_id)
            return held is not None and held.complete

        await self._waiters.wait((call.model, call.request_id), timeout, is_complete)

    async def _stream_signature(
        self, request: pb.StreamSignaturesRequest
    ) -> tuple[pb.StreamSignaturesResponse, Settle]:
        settle: Settle = unbooked
        response = pb.StreamSignaturesResponse(
            model=request.model[: reading.MAX_MODEL],
            request_id=request.request_id[: reading.MAX_REQUEST_ID],
            epoch=request.epoch,
            sequence=request.sequence,
        )
        try:
            if not request.HasField("route"):
                acknowledgement = await self._register_for_all(request)
                response.acknowledgement.CopyFrom(acknowledgement)
            else:
                self._register(request)
                self._share(request)
                for field in _SIGNATURE_FIELDS:
                    if not getattr(request.route, field):
                        setattr(request.route, field, getattr(request, field))
                settle = await self._route(request.route, response.placement)
        except EldrError as error:
            self.telemetry.refused(self, "StreamSignatures", status_code(error), error)
            response.status.CopyFrom(to_status(error))
        return response, settle

    async def _stream_route(
        self, request: pb.RouteStreamRequest
    ) -> tuple[pb.RouteStreamResponse, Settle]:
        settle: Settle = unbooked
        response = pb.RouteStreamResponse(
            model=request.model[: reading.MAX_MODEL],
            request_id=request.request_id[: reading.MAX_REQUEST_ID],
            attempt=request.attempt,
        )
        try:
            settle = await self._route(request, response.placement)
        except EldrError as error:
            self.telemetry.refused(self, "RouteStream", status_code(error), error)
            response.status.CopyFrom(to_status(error))
        return response, settle


def nothing_to_wait_for() -> None:
    """For an answer that depends on nothing pending."""


def _waits(request: pb.RouteRequest | pb.RouteStreamRequest) -> bool:
    for_signature = request.HasField("wait_for_signature") and not request.HasField("counts")
    return for_signature or request.HasField("max_wait")
