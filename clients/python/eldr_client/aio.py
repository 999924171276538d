"""The asyncio client."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
from eldr.v1.fleet_pb2 import WatchWorkersRequest
from eldr.v1.fleet_pb2_grpc import FleetServiceStub
from eldr.v1.router_pb2 import (
    LeaseReference,
    RegisterSignatureResponse,
    RouteRequest,
    WatchMovesRequest,
)
from eldr.v1.router_pb2_grpc import RouterServiceStub

from eldr_client.aio_stream import SignatureStream
from eldr_client.base import FAREWELL, LINGER, WATCH_PAUSE, BaseClient, Lease
from eldr_client.conversation import Call, Pause, Procedure
from eldr_client.counts import AnyCounts
from eldr_client.errors import EldrError, from_rpc_error
from eldr_client.messages import ChunkFields, RouteFields, Seconds, farewell, release_request
from eldr_client.placement import HeldPlacement, Move, Placement, ReleaseOutcome, ReleaseResult

T = TypeVar("T")
P = TypeVar("P", bound=Placement)


class RouterClient(BaseClient):
    """A connection to the router, for one event loop; options as in `BaseClient`.

    It may be created before the loop runs, connects on first use and reconnects by itself. Close
    it, or use it with `async with`, so that pending releases are sent. Methods are those of
    `eldr_client.RouterClient`.
    """

    def _begin(self) -> None:
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None
        self._chores: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._sooner = asyncio.Event()
        self._renews_at = 0.0
        self._closed = False
        self._farewells: set[asyncio.Task[None]] = set()

    async def register_signature(
        self,
        model: str,
        request_id: str,
        counts: AnyCounts | None,
        *,
        epoch: int = 0,
        sequence: int = 0,
        last: bool = True,
        total_chunks: int = 0,
        unknown_tokens: int = 0,
        prefill_worker: str = "",
        prompt_tokens: int = 0,
        top_k: int | None = None,
        timeout: float | None = None,
    ) -> RegisterSignatureResponse:
        """Add one chunk of a request's counts to the signature that the router holds."""
        request = self._signature_request(
            model,
            request_id,
            counts,
            top_k,
            unknown_tokens,
            epoch=epoch,
            sequence=sequence,
            last=last,
            total_chunks=total_chunks,
            prefill_worker=prefill_worker,
            prompt_tokens=prompt_tokens,
        )
        return await self._run(self._conversation.call("RegisterSignature", request, timeout))

    async def stream_signature(
        self,
        model: str,
        request_id: str,
        counts: AnyCounts | None,
        *,
        last: bool = True,
        route: RouteFields | None = None,
        top_k: int | None = None,
        unknown_tokens: int = 0,
        timeout: float | None = None,
        **fields: Unpack[ChunkFields],
    ) -> Placement | None:
        """`register_signature` over one open stream; with `route`, returns the placement."""
        request = self._chunk_request(
            model, request_id, counts, top_k, unknown_tokens, last, route, fields
        )
        try:
            return await self._run(self._conversation.signature(request, timeout))
        except EldrError:
            raise
        except BaseException:  # abandoned; the request may be booked
            if route is not None:
                self._conversation.disown(request.route)
                self._begin_chores()
            raise

    async def route(
        self,
        model: str,
        request_id: str,
        counts: AnyCounts | None = None,
        *,
        top_k: int | None = None,
        timeout: float | None = None,
        **fields: Unpack[RouteFields],
    ) -> Placement:
        """Pick a worker and book it, or fall back when the router does not answer."""
        request = self._route_request(model, request_id, counts, top_k, fields)
        return await self._route(request, timeout, Placement)

    def place(
        self,
        model: str,
        request_id: str,
        counts: AnyCounts | None = None,
        *,
        top_k: int | None = None,
        timeout: float | None = None,
        **fields: Unpack[RouteFields],
    ) -> AbstractAsyncContextManager[HeldPlacement]:
        """`route` for an `async with` block, with a release however the block ends.

        Its lease is renewed in the background while the block runs.
        """
        request = self._route_request(model, request_id, counts, top_k, fields)
        return _Placing(self, request, timeout)

    async def release(
        self,
        model: str,
        request_id: str,
        *,
        attempt: int = 0,
        lease_id: str = "",
        outcome: ReleaseOutcome | str = ReleaseOutcome.COMPLETED,
        output_tokens: int = 0,
        decode_duration: Seconds | None = None,
        decode_counts: AnyCounts | None = None,
        timeout: float | None = None,
    ) -> ReleaseResult | None:
        """End a booking; None if the router did not answer and will be told later."""
        request = release_request(
            model,
            request_id,
            attempt=attempt,
            lease_id=lease_id,
            outcome=outcome,
            output_tokens=output_tokens,
            decode_duration=decode_duration,
            decode_counts=decode_counts,
            top_k=self._top_k,
        )
        return await self._run(self._conversation.release(request, timeout))

    async def renew(
        self, model: str, leases: Iterable[Lease], *, timeout: float | None = None
    ) -> list[LeaseReference]:
        """Keep bookings alive; `leases` are (request_id, attempt[, lease_id]). Returns the dead."""
        request = self._renew_request(model, leases)
        answer = await self._run(self._conversation.call("RenewLeases", request, timeout))
        return list(answer.unknown)

    async def watch_moves(self, model: str) -> AsyncIterator[Move]:
        """Moves of requests that were routed `movable`, as they are proposed; see `client`."""
        self._connect()
        while True:
            try:
                call = self._stub.WatchMoves(
                    WatchMovesRequest(model=model), metadata=self._endpoint.metadata
                )
                async for message in call:
                    yield Move.of(message)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise from_rpc_error(error) from error
            await asyncio.sleep(WATCH_PAUSE)

    async def close(self) -> None:
        """Send pending releases, for at most a second and if the router is up; disconnect.

        A block of `place` that still runs loses its booking, as cancelled.
        """
        self._conversation.disown_held()
        if self._channel is not None:
            self._begin_chores()
        self._conversation.closing = True
        tasks = {*self._farewells, *filter(None, [self._chores])}
        if tasks and not self._conversation.router_is_down:
            await asyncio.wait(tasks, timeout=FAREWELL)
        tasks.update(filter(None, [self._chores, self._watching, self._renewing]))
        self._closed = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # their errors are logged
        self._conversation.abandon()
        if self._channel is not None:
            self._signatures.close()
            await self._channel.close()

    async def __aenter__(self) -> Self:
        self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _connect(self) -> None:
        # A grpc.aio channel belongs to the loop that is running at its creation.
        if self._channel is None:
            self._channel = self._endpoint.open_aio()
            self._stub = RouterServiceStub(self._channel)
            self._signatures = SignatureStream(
                lambda: self._stub.StreamSignatures(metadata=self._endpoint.metadata)
            )
            if self._watched:
                self._watching = asyncio.create_task(self._watch())

    async def _route(self, request: RouteRequest, timeout: float | None, kind: type[P]) -> P:
        try:
            return await self._run(self._conversation.route(request, timeout, kind))
        except EldrError:
            raise
        except BaseException:  # abandoned, at any line; the request may be booked
            self._conversation.disown(request)
            self._begin_chores()
            raise

    async def _run(self, procedure: Procedure[T]) -> T:
        self._connect()
        try:
            step = next(procedure)
            while True:
                try:
                    answer = await self._perform(step)
                except grpc.RpcError as error:
                    step = procedure.throw(error)
                else:
                    step = procedure.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            procedure.close()  # tells it, after a cancellation, that it was abandoned
            self._begin_chores()

    async def _perform(self, step: Call | Pause) -> Any:
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        if step.method == "StreamSignatures":
            return await self._signatures.exchange(step.request, step.timeout)
        return await getattr(self._stub, step.method)(
            step.request, timeout=step.timeout, metadata=self._metadata()
        )

    def _begin_chores(self) -> None:
        idle = not self._closed and (self._chores is None or self._chores.done())
        if idle and self._conversation.has_chores:
            # In a context of their own: they belong to no request's trace.
            self._chores = asyncio.create_task(self._do_chores(), context=Context())

    async def _do_chores(self) -> None:
        while self._conversation.has_chores:
            await self._run(self._conversation.chores())

    async def _say(self, farewell: Procedure[None]) -> None:
        """Carry a farewell out even if its task is cancelled again meanwhile."""
        task = asyncio.create_task(self._run(farewell))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)
        await asyncio.shield(task)

    def _hold(self, request: RouteRequest, placement: HeldPlacement) -> None:
        due = self._conversation.renewals.hold(request, placement)
        if due is None or self._closed:
            return
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew_held(), context=Context())
        elif due < self._renews_at:
            self._sooner.set()

    async def _renew_held(self) -> None:
        """Renew held leases; ends when none is held."""
        while (due := self._conversation.renewals.next_due()) is not None:
            self._renews_at = due
            try:
                await asyncio.wait_for(
                    self._sooner.wait(), min(max(due - time.monotonic(), 0.0), LINGER)
                )
            except TimeoutError:
                await self._run(self._conversation.renew())
            else:
                self._sooner.clear()

    async def _watch(self) -> None:
        assert self._channel is not None
        stub = FleetServiceStub(self._channel)
        while True:
            self._conversation.pool.begin_watch()
            try:
                async for update in stub.WatchWorkers(
                    WatchWorkersRequest(), metadata=self._endpoint.metadata
                ):
                    self._conversation.pool.observe(update)
            except grpc.RpcError as error:
                if self._watch_is_refused(error):
                    return
            await asyncio.sleep(WATCH_PAUSE)


class _Placing(AbstractAsyncContextManager[HeldPlacement]):
    """The block of `place`."""

    def __init__(self, client: RouterClient, request: RouteRequest, timeout: float | None) -> None:
        self._client = client
        self._request = request
        self._timeout = timeout

    async def __aenter__(self) -> HeldPlacement:
        self._placement = await self._client._route(self._request, self._timeout, HeldPlacement)
        self._client._hold(self._request, self._placement)
        return self._placement

    async def __aexit__(
        self,
        raised: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        client = self._client
        client._conversation.renewals.let_go(self._request)
        release = farewell(self._request, self._placement, raised, client._top_k)
        if release is not None:
            await client._say(client._conversation.farewell(release))
