"""What the sync and the asyncio client share: options and requests."""

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

# Seconds before a broken watch is retried.
WATCH_PAUSE = 1.0
# Seconds that closing waits for releases in flight.
FAREWELL = 1.0
# Seconds that the renewal of leases waits for another lease after the last.
LINGER = 10.0


class BaseClient(ABC):
    """Options and requests of a client.

    Parameters
    ----------
    target : str
        HOST:PORT of the router, several separated by commas for replicas, `dns:///NAME:PORT` for
        all addresses of a name, or any other gRPC target with a scheme (`unix:PATH`).
    timeout : float
        Deadline of each call in seconds, over all its tries.
    top_k : int, optional
        Experts that each token picks per layer, for counts given as bare arrays.
    token : str, optional
        Bearer token. Use it with TLS.
    root_certificates, client_key, client_certificate : bytes, optional
        PEM. Any of them turns on TLS; `tls` alone does so with the system's roots.
    fallback_workers : iterable of (worker_id, url[, dp_rank]), or a mapping of model to such
        Workers known before the first placement, for when the router does not answer.
    watch : bool
        Learn all workers from FleetService.WatchWorkers; this needs the role admin.
    trace_context : callable (), optional
        Returns the current span's W3C Trace Context, `traceparent` and `tracestate`, to send with
        every call, as OpenTelemetry's `TraceContextTextMapPropagator` injects it.
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
        """Set up what belongs to threads or to an event loop."""

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of a call about one request."""
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
        """Whether the watch will never be served to this token, or by this router."""
        refused = error.code() in (
            grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.UNIMPLEMENTED,
        )
        if refused:
            logger.warning("workers are not watched: %s", from_rpc_error(error))
        return refused
