"""The client for threads."""

import atexit
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
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

from eldr_client.base import FAREWELL, LINGER, WATCH_PAUSE, BaseClient, Lease
from eldr_client.conversation import Call, Pause, Procedure
from eldr_client.counts import AnyCounts
from eldr_client.errors import EldrError, from_rpc_error
from eldr_client.messages import (
    ChunkFields,
    RouteFields,
    Seconds,
    farewell,
    release_request,
)
from eldr_client.placement import HeldPlacement, Move, Placement, ReleaseOutcome, ReleaseResult
from eldr_client.stream import SignatureStream

T = TypeVar("T")
P = TypeVar("P", bound=Placement)


class RouterClient(BaseClient):
    """A connection to the router, for any number of threads; options as in `BaseClient`.

    It connects on first use and reconnects by itself. Close it, or use it as a context manager, so
    that pending releases are sent. Methods raise the errors of `eldr_client.errors`; `timeout` is
    the call's own deadline in seconds.
    """

    def _begin(self) -> None:
        self._channel = self._endpoint.open()
        self._stub = RouterServiceStub(self._channel)
        self._signatures = SignatureStream(
            lambda requests: self._stub.StreamSignatures(requests, metadata=self._endpoint.metadata)
        )
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._chores: threading.Thread | None = None
        self._sooner = threading.Event()
        self._renewing: threading.Thread | None = None
        self._renews_at = 0.0
        _open_clients.add(self)
        if self._watched:
            threading.Thread(target=self._watch, name="eldr-watch", daemon=True).start()

    def register_signature(
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
        answer: RegisterSignatureResponse = self._run(
            self._conversation.call("RegisterSignature", request, timeout)
        )
        return answer

    def stream_signature(
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
        """`register_signature` as a message on one stream that stays open.

        With `route` (the fields of a Route; `{}` for none) the request is placed once the chunk is
        added, and the placement is returned. There is no fallback: without an answer it raises.
        """
        request = self._chunk_request(
            model, request_id, counts, top_k, unknown_tokens, last, route, fields
        )
        try:
            return self._run(self._conversation.signature(request, timeout))
        except EldrError:
            raise
        except BaseException:  # abandoned; the request may be booked
            if route is not None:
                self._conversation.disown(request.route)
                self._begin_chores()
            raise

    def route(
        self,
        model: str,
        request_id: str,
        counts: AnyCounts | None = None,
        *,
        top_k: int | None = None,
        timeout: float | None = None,
        **fields: Unpack[RouteFields],
    ) -> Placement:
        """Pick a worker and book it. Release it when the answer has ended, or use `place`.

        If the router does not answer within the deadline (plus the wait for the signature), the
        placement is this client's own: it has `is_fallback`, and nothing is booked.
        """
        request = self._route_request(model, request_id, counts, top_k, fields)
        return self._route(request, timeout, Placement)

    def place(
        self,
        model: str,
        request_id: str,
        counts: AnyCounts | None = None,
        *,
        top_k: int | None = None,
        timeout: float | None = None,
        **fields: Unpack[RouteFields],
    ) -> AbstractContextManager[HeldPlacement]:
        """`route` for a `with` block, with a release however the block ends.

        Its lease is renewed in the background while the block runs.
        """
        request = self._route_request(model, request_id, counts, top_k, fields)
        return _Placing(self, request, timeout)

    def release(
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
        """End a booking; twice is fine.

        Returns None if the router did not answer: the release is kept, and sent once it does.
        """
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
        return self._run(self._conversation.release(request, timeout))

    def renew(
        self, model: str, leases: Iterable[Lease], *, timeout: float | None = None
    ) -> list[LeaseReference]:
        """Keep bookings alive; `leases` are (request_id, attempt[, lease_id]). Returns the dead."""
        request = self._renew_request(model, leases)
        return list(self._run(self._conversation.call("RenewLeases", request, timeout)).unknown)

    def watch_moves(self, model: str) -> Iterator[Move]:
        """Moves of requests that were routed `movable`, as they are proposed.

        Blocks until there is one, reconnects after a lost call, and ends when the client is closed.
        Raises the daemon's error if the daemon refuses.
        """
        stub = RouterServiceStub(self._channel)
        while not self._closing.is_set():
            try:
                request = WatchMovesRequest(model=model)
                yield from map(Move.of, stub.WatchMoves(request, metadata=self._endpoint.metadata))
            except grpc.RpcError as error:
                if self._closing.is_set():
                    return
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise from_rpc_error(error) from error
            self._closing.wait(WATCH_PAUSE)

    def close(self) -> None:
        """Send pending releases, for at most a second and if the router is up; disconnect.

        A block of `place` that still runs loses its booking, as cancelled.
        """
        self._conversation.disown_held()
        self._begin_chores()
        self._conversation.closing = True
        with self._lock:
            self._closing.set()
            self._sooner.set()
            chores = self._chores
        if chores is not None:
            chores.join(FAREWELL)
            self._conversation.abandon()
            chores.join()  # the call in flight, which has a deadline
        _open_clients.discard(self)
        self._signatures.close()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _route(self, request: RouteRequest, timeout: float | None, kind: type[P]) -> P:
        try:
            return self._run(self._conversation.route(request, timeout, kind))
        except EldrError:
            raise
        except BaseException:  # abandoned, at any line; the request may be booked
            self._conversation.disown(request)
            self._begin_chores()
            raise

    def _run(self, procedure: Procedure[T]) -> T:
        try:
            step = next(procedure)
            while True:
                try:
                    answer = self._perform(step)
                except grpc.RpcError as error:
                    step = procedure.throw(error)
                else:
                    step = procedure.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            procedure.close()  # tells it, after an interrupt, that it was abandoned
            self._begin_chores()

    def _perform(self, step: Call | Pause) -> Any:
        if isinstance(step, Pause):
            return self._closing.wait(step.seconds)
        if step.method == "StreamSignatures":
            return self._signatures.exchange(step.request, step.timeout)
        return getattr(self._stub, step.method)(
            step.request, timeout=step.timeout, metadata=self._metadata()
        )

    def _begin_chores(self) -> None:
        with self._lock:
            busy = self._chores is not None and self._chores.is_alive()
            if not busy and not self._closing.is_set() and self._conversation.has_chores:
                self._chores = threading.Thread(
                    target=self._do_chores, name="eldr-chores", daemon=True
                )
                self._chores.start()

    def _do_chores(self) -> None:
        while True:
            self._run(self._conversation.chores())
            with self._lock:
                if not self._conversation.has_chores:
                    self._chores = None
                    return

    def _hold(self, request: RouteRequest, placement: HeldPlacement) -> None:
        due = self._conversation.renewals.hold(request, placement)
        if due is None:
            return
        with self._lock:
            if self._renewing is not None and self._renewing.is_alive():
                if due < self._renews_at:
                    self._sooner.set()
            elif not self._closing.is_set():
                self._renews_at = due
                self._renewing = threading.Thread(
                    target=self._renew_held, name="eldr-renewals", daemon=True
                )
                self._renewing.start()

    def _renew_held(self) -> None:
        """Renew held leases; ends when none is held."""
        while True:
            with self._lock:
                due = self._conversation.renewals.next_due()
                if due is None or self._closing.is_set():
                    self._renewing = None
                    return
                self._renews_at = due
            if self._sooner.wait(min(max(due - time.monotonic(), 0.0), LINGER)):
                self._sooner.clear()
            else:
                self._run(self._conversation.renew())

    def _watch(self) -> None:
        stub = FleetServiceStub(self._channel)
        while not self._closing.is_set():
            self._conversation.pool.begin_watch()
            try:
                for update in stub.WatchWorkers(
                    WatchWorkersRequest(), metadata=self._endpoint.metadata
                ):
                    self._conversation.pool.observe(update)
            except grpc.RpcError as error:
                if self._watch_is_refused(error):
                    return
            self._closing.wait(WATCH_PAUSE)


class _Placing(AbstractContextManager[HeldPlacement]):
    """The block of `place`."""

    _held: HeldPlacement | None = None

    def __init__(self, client: RouterClient, request: RouteRequest, timeout: float | None) -> None:
        self._client = client
        self._request = request
        self._timeout = timeout

    def __enter__(self) -> HeldPlacement:
        self._held = self._client._route(self._request, self._timeout, HeldPlacement)
        try:
            self._client._hold(self._request, self._held)
        except BaseException:  # interrupted: no `__exit__` follows
            self._abandon()
            raise
        return self._held

    def __exit__(
        self,
        raised: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._held is not None
        client, held = self._client, self._held
        try:
            client._conversation.renewals.let_go(self._request)
            release = farewell(self._request, held, raised, client._top_k)
            self._held = None
            if release is not None:
                client._run(client._conversation.farewell(release))
        except BaseException:  # interrupted while leaving; an extra release does no harm
            self._abandon()
            raise

    def _abandon(self) -> None:
        self._held = None
        self._client._conversation.disown(self._request)
        self._client._begin_chores()

    def __del__(self) -> None:
        # An interrupt can keep `__exit__` from starting. The client's next call, or its closing,
        # then sends this release: a finalizer runs anywhere, so it must not take the client's lock.
        if self._held is not None and not self._held.is_fallback:
            self._client._conversation.disown(self._request)


_open_clients: weakref.WeakSet[RouterClient] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Send pending releases when the program ends, by Ctrl-C too."""
    for client in list(_open_clients):
        client.close()
