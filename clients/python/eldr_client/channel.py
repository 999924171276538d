"""How the router is reached: one channel, its reconnection, its credentials."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import grpc

from eldr_client.addresses import Addresses

DEFAULT_TARGET = "127.0.0.1:50051"

_OPTIONS = (
    # A router that is back is found again within about a quarter of a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 250),
    # Effectively the least time for one attempt to connect. With gRPC's 20 s, a channel would stay
    # disconnected that long after a host which drops packets has returned.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    # A peer that vanished is detected by unacknowledged bytes (gRPC sets TCP_USER_TIMEOUT from
    # these). Pings are sent only during calls, as servers expect.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # The client itself retries, with one deadline over all tries.
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the router is, in the notation of `Addresses`, and the credentials to call it with.

    TLS is used if any certificate is given, or with `tls` alone with the system's roots. A token
    is sent with every call; without TLS, in the clear.
    """

    target: str = DEFAULT_TARGET
    _: KW_ONLY
    token: str | None = field(default=None, repr=False)
    root_certificates: bytes | None = None
    client_key: bytes | None = field(default=None, repr=False)
    client_certificate: bytes | None = None
    tls: bool = False

    def __post_init__(self) -> None:
        Addresses(self.target)  # raises ValueError

    @property
    def has_replicas(self) -> bool:
        """Whether a call that one address leaves unanswered may be answered by another."""
        return Addresses(self.target).are_several

    def open(self, *, sticky: bool = False) -> grpc.Channel:
        """A new channel for threads; `sticky` keeps to one replica while it lives."""
        return self._open(grpc.insecure_channel, grpc.secure_channel, sticky)

    def open_aio(self) -> grpc.aio.Channel:
        """A new channel for the running event loop."""
        return self._open(grpc.aio.insecure_channel, grpc.aio.secure_channel, False)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of every call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def _open(self, insecure: Callable[..., Any], secure: Callable[..., Any], sticky: bool) -> Any:
        addresses = Addresses(self.target)
        # Of an option given twice, gRPC takes either: pass each once.
        options = tuple(dict((*_OPTIONS, *addresses.options(sticky))).items())
        certificates = self.root_certificates, self.client_key, self.client_certificate
        if not self.tls and not any(certificates):
            return insecure(addresses.target(), options=options)
        credentials = grpc.ssl_channel_credentials(*certificates)
        return secure(addresses.target(), credentials, options=options)
