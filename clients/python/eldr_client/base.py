"""What the sync and the asyncio client have in common: their options, and their requests."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import grpc
from eldr.v1.router_pb2 import (
    LeaseReference,
    RegisterSignatureRequest,
    RenewLeasesRequest,
    RouteRequest,
    StreamSignaturesRequest,
    TraceContext,
)

from eldr_client.channel import DEFAULT_TARGET, Endpoint
from eldr_client.conversation import Conversation
from eldr_client.counts import AnyCounts, as_message
from eldr_client.errors import from_rpc_error
from eldr_client.fallback import FallbackPool, GivenWorkers
from eldr_client.messages import ChunkFields, RouteFields, logger, route_request

Lease = tuple[str, int] | tuple[str, int, str]

# Seconds until a broken watch is tried again.
WATCH_PAUSE = 1.0
# Seconds that closing waits for releases under way.
FAREWELL = 1.0
# Seconds after the last lease for which what renews leases waits for another.
LINGER = 10.0


class BaseClient(ABC):
    """Options and requests of a client.

    Parameters
    ----------
    target : str
        HOST:PORT of the router, several with commas between them for replicas, `dns:///NAME:PORT`
        for all addresses of a name, or any other gRPC target that names its kind (`unix:PATH`).
    timeout : float
        Deadline of each call in seconds, all its tries together.
    top_k : int, optional
        Experts each token picks in each layer, for counts that are bare arrays.
    token : str, optional
        Bearer token. Use it with TLS.
    root_certificates, client_key, client_certificate : bytes, optional
        PEM. Any of them turns TLS on; `tls` alone does with the system's roots.
    fallback_workers : iterable of (worker_id, url[, dp_rank]), or a mapping of model to such
        Workers known before the first placement, for the time when the router does not answer.
    watch : bool
        Learn all workers from FleetService.WatchWorkers; the token needs the role admin.
    trace_context : callable (), optional
        To the W3C Trace Context of the current span, `traceparent` and `tracestate`, which goes out
        with every call: what OpenTelemetry's `TraceContextTextMapPropagator` injects.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float = 0.25,
        top_k: int | None = None,
        token: str | None = None,
        root_certificates: bytes | None = None,
        client_key: bytes | None = None,
        client_certificate: bytes | None = None,
        tls: bool = False,
        fallback_workers: GivenWorkers = (),
        watch: bool = False,
        trace_context: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        self._endpoint = Endpoint(
            target,
            token=token,
            root_certificates=root_certificates,
            client_key=client_key,
            client_certificate=client_certificate,
            tls=tls,
        )
        self._top_k = top_k
        self._watched = watch
        self._trace_context = trace_context
        self._conversation = Conversation(
            FallbackPool(fallback_workers), timeout, self._endpoint.has_replicas
        )
        self._begin()

    @abstractmethod
    def _begin(self) -> None:
        """Set up what belongs to threads, or to an event loop."""

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with a call of one request."""
        if self._trace_context is None:
            return self._endpoint.metadata
        return (*self._endpoint.metadata, *self._trace_context().items())

    def _route_request(
        self,
        model: str,
        request_id: str,
        counts: AnyCounts | None,
        top_k: int | None,
        fields: RouteFields,
    ) -> RouteRequest:
        message = as_message(counts, top_k or self._top_k)
        return route_request(model, request_id, message, **fields)

    def _signature_request(
        self,
        model: str,
        request_id: str,
        counts: AnyCounts | None,
        top_k: int | None,
        unknown_tokens: int,
        **fields: Any,
    ) -> RegisterSignatureRequest:
        message = as_message(counts, top_k or self._top_k, unknown_tokens)
        return RegisterSignatureRequest(
            model=model, request_id=request_id, counts=message, **fields
        )

    def _chunk_request(
        self,
        model: str,
        request_id: str,
        counts: AnyCounts | None,
        top_k: int | None,
        unknown_tokens: int,
        last: bool,
        route: RouteFields | None,
        fields: ChunkFields,
    ) -> StreamSignaturesRequest:
        return StreamSignaturesRequest(
            model=model,
            request_id=request_id,
            counts=as_message(counts, top_k or self._top_k, unknown_tokens),
            last=last,
            route=None if route is None else route_request(model, request_id, None, **route),
            trace_context=self._message_context(),
            **fields,
        )

    def _message_context(self) -> TraceContext | None:
        fields = self._trace_context() if self._trace_context else {}
        if "traceparent" not in fields:
            return None
        return TraceContext(
            traceparent=fields["traceparent"], tracestate=fields.get("tracestate", "")
        )

    @staticmethod
    def _renew_request(model: str, leases: Iterable[Lease]) -> RenewLeasesRequest:
        references = [
            LeaseReference(request_id=request_id, attempt=attempt, lease_id=lease_id)
            for request_id, attempt, lease_id in ((*lease, "")[:3] for lease in leases)
        ]
        return RenewLeasesRequest(model=model, leases=references)

    @staticmethod
    def _watch_is_refused(error: grpc.RpcError) -> bool:
        """The watch will not be served to this token, or by this router, however often it asks."""
        refused = error.code() in (
            grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.UNIMPLEMENTED,
        )
        if refused:
            logger.warning("workers are not watched: %s", from_rpc_error(error))
        return refused
