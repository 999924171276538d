"""The gRPC ports, and which services each serves."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from eldr_service.server.rpc.admission import Admission
from eldr_service.server.rpc.certificates import Certificates
from eldr_service.server.rpc.decoding import refusing_garbage
from eldr_service.server.rpc.spans import CallSpans
from eldr_service.server.rpc.unread import ending_unread

# FitPartition with counts is the largest message; even 10 MB ids get a clear answer.
MAX_MESSAGE_BYTES = 64 << 20
# A connection without a completed handshake by then is closed; gRPC's default is 120 s.
HANDSHAKE_SECONDS = 10
# How often servers are checked, and how long the calls of a failed one may go on.
LOOK_SECONDS = 0.05
LAST_CALLS_SECONDS = 10.0
# Clients ping at most every ten seconds, by their languages' rules; gRPC's own limit, one ping in
# five minutes and none without a call, ends their connections with "too many pings".
LEAST_PING_SECONDS = 1
# A peer that vanished loses its streams after both of these.
PEER_PING_SECONDS, PEER_ANSWER_SECONDS = 60, 20
BEING_REFUSED = 4_096
# Left to the administration listener, if there is one.
ADMINISTRATION = {
    "eldr.v1.FleetService": frozenset({"DrainWorker", "RemoveWorker"}),
    "eldr.v1.PartitionService": None,
    "eldr.v1.PolicyService": None,
}

log = structlog.get_logger("eldr")

Add = Callable[[Any, Any], None]
"""Adds a servicer to a server: generated with the stubs."""


class CallLimits(NamedTuple):
    """How many calls and streams may be in progress, and on how many connections per listener."""

    in_all: int
    per_connection: int
    connections: int


class Listeners:
    """gRPC servers that share services, credentials and health.

    Parameters
    ----------
    services : sequence of (add, servicer)
    interceptors : sequence of ServerInterceptor
    certificates : Certificates or None
        None for plain text.
    admission : Admission
    limits : CallLimits
    spans : CallSpans, optional
    """

    def __init__(
        self,
        services: Sequence[tuple[Add, Any]],
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        certificates: Certificates | None,
        admission: Admission,
        limits: CallLimits,
        spans: CallSpans | None = None,
    ) -> None:
        self._services = services
        self._interceptors = interceptors
        self._certificates = certificates
        self._admission = admission
        self._limits = limits
        self._spans = spans
        self._health = health.aio.HealthServicer()
        self._names: set[str] = {""}
        self._servers: list[grpc.aio.Server] = []
        self._opened: list[tuple[str, bool]] = []  # the arguments of each `open`

    def open(self, address: str, administration: bool) -> int:
        """Bind HOST:PORT, and return the port; nothing is served before `start`.

        Raises
        ------
        RuntimeError
            The address cannot be used.
        """
        server, port = self._open(address, administration)
        self._servers.append(server)
        self._opened.append((f"{address.rpartition(':')[0]}:{port}", administration))
        return port

    def _open(self, address: str, administration: bool) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(
            interceptors=self._interceptors,
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_concurrent_streams", self._limits.per_connection),
                ("grpc.max_allowed_incoming_connections", self._limits.connections),
                ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1_000),
                ("grpc.http2.min_ping_interval_without_data_ms", LEAST_PING_SECONDS * 1_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.keepalive_time_ms", PEER_PING_SECONDS * 1_000),
                ("grpc.keepalive_timeout_ms", PEER_ANSWER_SECONDS * 1_000),
                ("grpc.so_reuseport", 0),  # a second daemon on this port must fail, not share it
            ],
            # Calls whose message has not come are counted only by gRPC, which refuses without a
            # RetryInfo, so calls that are being refused with one must not count here.
            maximum_concurrent_rpcs=2 * self._limits.in_all + BEING_REFUSED,
        )
        left_out = {} if administration else ADMINISTRATION
        chosen = _Chosen(server, self._admission, left_out, self._spans)
        for add, servicer in self._services:
            add(servicer, chosen)
        self._names |= chosen.names
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflected = (*sorted(chosen.names), health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(reflected, server)
        if self._certificates:
            port = server.add_secure_port(address, self._certificates.credentials())
        else:
            port = server.add_insecure_port(address)
        return server, int(port)

    async def start(self) -> None:
        """Serve."""
        for server in self._servers:
            await server.start()

    async def keep_serving(self) -> None:
        """Replace each server that fails, until cancelled.

        A call whose path is not UTF-8 ends grpc.aio's server, before authentication. Its calls go
        on for a while, and clients connect to its successor.
        """
        ending = set()
        while True:
            for place, server in enumerate(self._servers):
                try:
                    await server.wait_for_termination(LOOK_SECONDS / len(self._servers))
                except Exception as error:  # noqa: BLE001 - whatever it was, the port is served
                    address, administration = self._opened[place]
                    log.error("gRPC server failed, another takes over", error=repr(error))
                    ending.add(last := asyncio.create_task(server.stop(LAST_CALLS_SECONDS)))
                    last.add_done_callback(ending.discard)
                    self._servers[place] = await self._successor(address, administration)

    async def _successor(self, address: str, administration: bool) -> grpc.aio.Server:
        while True:
            try:
                server, _ = self._open(address, administration)
            except RuntimeError as error:  # the port is not free yet
                log.error("gRPC server not replaced", error=str(error), retry_seconds=1.0)
                await asyncio.sleep(1.0)
            else:
                await server.start()
                return server

    async def tell(self, serving: bool) -> None:
        """Tell health checks whether the daemon takes requests."""
        status = health_pb2.HealthCheckResponse
        for name in sorted(self._names):
            await self._health.set(name, status.SERVING if serving else status.NOT_SERVING)

    async def stop(self, grace: float | None) -> None:
        """Take no more calls; calls in progress may go on for `grace` seconds."""
        for server in self._servers:
            await server.stop(grace)


class _Chosen:
    """Stands in for a server where services are added, and passes on those it should have."""

    def __init__(
        self,
        server: grpc.aio.Server,
        admission: Admission,
        left_out: Mapping[str, Collection[str] | None],
        spans: CallSpans | None,
    ) -> None:
        self._server = server
        self._guarding = admission.guarding
        self._left_out = left_out
        self._spans = spans
        self.names: set[str] = set()

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Ignored: the other method gets the methods' names."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]
    ) -> None:
        """Add the methods of a service, except those left out."""
        left_out = self._left_out.get(service, ())
        if left_out is None:
            return
        kept = {
            name: self._wrapped(f"/{service}/{name}", handler)
            for name, handler in handlers.items()
            if name not in left_out
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, kept),)
        )
        self.names.add(service)

    def _wrapped(self, name: str, handler: grpc.RpcMethodHandler) -> Any:
        wrapped = ending_unread(self._guarding(name, refusing_garbage(handler)))
        return self._spans.around(name, wrapped) if self._spans else wrapped
