"""The proxy's settings."""

from dataclasses import dataclass, field
from typing import Any

from eldr_vllm.proxy.headers import FORWARDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One proxy's settings; times in seconds."""

    host: str = "127.0.0.1"
    port: int = 8000
    # HOST:PORT of the daemon; None: round robin over `decode`.
    router: str | None = None
    token: str | None = field(default=None, repr=False)
    # TLS to the daemon, PEM: any of them turns it on; `tls` alone uses the system's roots.
    tls: bool = False
    root_certificates: bytes | None = None
    client_key: bytes | None = field(default=None, repr=False)
    client_certificate: bytes | None = None
    # Static workers. For an empty list, the daemon's fleet is used.
    prefill: tuple[str, ...] = ()
    decode: tuple[str, ...] = ()
    # The model's name at the daemon; None: as in the request.
    model: str | None = None
    # Requests may come prefilled and name their KV: callers are trusted schedulers.
    accept_prefilled: bool = False
    # The engines prefill what they decode: a request is placed on arrival, and sent once.
    without_prefill_workers: bool = False
    # The header that names a request's tenant.
    tenant_header: str = "X-Tenant-Id"
    first_token_from_prefill: bool = False
    # Carry out the moves of running requests that the daemon proposes.
    moves: bool = False
    # Most time that routing may add to a request, including the wait for a signature.
    route_timeout: float = 0.010
    signature_wait: float = 0.005
    # Beside it, how long a request waits for a place while all engines are full.
    max_wait: float = 0.0
    connect_timeout: float = 2.0
    # The longest silence of an engine: a whole prefill, or the pause between two tokens.
    read_timeout: float = 600.0
    # Tries of the decode, including the first.
    attempts: int = 3
    # Characters per piece of a prompt; see affinity.py.
    prefix_length: int = 512
    # Headers of the caller that engines get too.
    forward_headers: tuple[str, ...] = FORWARDED
    # Credentials among them go to engines of the daemon's fleet as well.
    credentials_to_fleet: bool = False
    # Engines may be at link-local addresses, where clouds serve machines' credentials.
    allow_link_local: bool = False
    max_body_bytes: int = 64 << 20

    @property
    def credentials(self) -> dict[str, Any]:
        """The keywords of eldr_client for the daemon's TLS and token."""
        return {
            "token": self.token,
            "tls": self.tls,
            "root_certificates": self.root_certificates,
            "client_key": self.client_key,
            "client_certificate": self.client_certificate,
        }
