"""The proxy's settings."""

from dataclasses import dataclass, field
from typing import Any

from eldr_vllm.proxy.headers import FORWARDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one proxy runs; times in seconds."""

    host: str = "127.0.0.1"
    port: int = 8000
    # HOST:PORT of the daemon; None: round robin over `decode`.
    router: str | None = None
    token: str | None = field(default=None, repr=False)
    # TLS towards the daemon, in PEM: any of them turns it on, `tls` alone by the system's roots.
    tls: bool = False
    root_certificates: bytes | None = None
    client_key: bytes | None = field(default=None, repr=False)
    client_certificate: bytes | None = None
    # Static workers. Where a list is empty, the daemon's fleet stands for it.
    prefill: tuple[str, ...] = ()
    decode: tuple[str, ...] = ()
    # The model's name towards the daemon; None: as the request says it.
    model: str | None = None
    # Requests may come prefilled and say where their KV is: the callers are trusted schedulers.
    accept_prefilled: bool = False
    # The engines prefill what they decode: a request is placed as it comes, and goes there once.
    without_prefill_workers: bool = False
    # The header that names a request's tenant.
    tenant_header: str = "X-Tenant-Id"
    first_token_from_prefill: bool = False
    # Carry out the moves of running requests that the daemon proposes.
    moves: bool = False
    # All that routing may add to a request, the wait for a signature included.
    route_timeout: float = 0.010
    signature_wait: float = 0.005
    # Beside it, how long a request waits for a place where all engines are full.
    max_wait: float = 0.0
    connect_timeout: float = 2.0
    # The longest silence of an engine: a whole prefill, or the pause between two tokens.
    read_timeout: float = 600.0
    # Tries of the decode, the first one included.
    attempts: int = 3
    # Characters of a piece of the prompt; see affinity.py.
    prefix_length: int = 512
    # Headers of the caller that engines get, too.
    forward_headers: tuple[str, ...] = FORWARDED
    # Those of them that are credentials go to engines of the daemon's fleet as well.
    credentials_to_fleet: bool = False
    # Engines may be at link-local addresses, where clouds tell machines their credentials.
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
