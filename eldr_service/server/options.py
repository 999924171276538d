"""The daemon's options: each field is a flag, a variable and a key of the file."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from eldr_service.core.errors import InvalidArgumentError
from eldr_service.core.geometry import ModelGeometry
from eldr_service.server.address import Address
from eldr_service.server.origins import KEYS
from eldr_service.server.values import (
    MEMORY,
    Directory,
    DnsOrigins,
    KeySource,
    KubernetesOrigins,
    ListenAddress,
    NameServer,
    PolicyChoice,
    ReadableFile,
    SafeUrl,
    Seconds,
    State,
    default_state,
)

PREFIX = "ELDR_"


def _option(metavar: str, description: str, **constraints: Any) -> Any:
    """Declare a field that is also a flag; `metavar` stands for its value in the help."""
    return Field(description=description, json_schema_extra={"metavar": metavar}, **constraints)


class ModelDeclaration(BaseModel):
    """A model whose geometry the file declares, so that no worker can claim another."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=256)
    num_layers: int
    num_experts: int
    top_k: int

    @model_validator(mode="after")
    def _possible(self) -> "ModelDeclaration":
        try:
            _ = self.geometry
        except InvalidArgumentError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def geometry(self) -> ModelGeometry:
        """Layers, experts and top_k."""
        return ModelGeometry(self.num_layers, self.num_experts, self.top_k)


class Options(BaseSettings):
    """All options in the order of --help, each validated on its own."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,  # many tools set a variable to "" to unset it
        enable_decoding=False,  # variables are written as flags are, not as JSON
        extra="forbid",
        frozen=True,
        validate_default=False,
    )

    listen: ListenAddress = _option(
        "HOST:PORT",
        "where gRPC is served, port 0 for a free one; loopback, as it is unprotected by default",
        default=Address("127.0.0.1", 50051),
    )
    admin_listen: ListenAddress | None = _option(
        "HOST:PORT",
        "where all of gRPC is served; --listen then lacks DrainWorker, RemoveWorker, partitions and"
        " policies",
        default=None,
    )
    http: ListenAddress = _option(
        "HOST:PORT",
        "where the page, metrics and health are served: the page to this machine, or with tokens to"
        " admins; the others to all",
        default=Address("127.0.0.1", 9464),
    )
    state: State = _option(
        f"DIR|{MEMORY}|URL",
        f"what survives a restart: bookings, workers, partitions, policies; {MEMORY} keeps nothing;"
        " daemons with the same redis:// URL act as one router",
        default_factory=default_state,
    )
    state_password: ReadableFile | None = _option(
        "FILE", "PASSWORD or USER:PASSWORD for a --state URL", default=None
    )
    state_timeout: Seconds = _option(
        "SECONDS",
        "how long answers wait for a --state URL before this daemon goes on by its own view; far"
        " longer than a commit takes",
        default=0.25,
    )
    durability: Literal["process", "power"] = _option(
        "process|power",
        "what an acknowledged booking survives: the end of the process, kill -9 included, or also a"
        " power failure, for which each answer waits for the disk",
        default="process",
    )
    config: ReadableFile | None = _option(
        "FILE",
        "TOML file with any of these settings; flags and variables override it",
        default=None,
    )
    policy: PolicyChoice = _option(
        "NAME[:key=value,...]",
        "policy of models for which none was set; `eldr policy list --offline` lists them",
        default="locality-band",
    )
    fleet: ReadableFile | None = _option(
        "FILE",
        "TOML file of workers that do not register by themselves; reread when it changes",
        default=None,
    )
    kubernetes: KubernetesOrigins | None = _option(
        "NAMESPACE/SERVICE[:key=value,...]",
        "find workers by the EndpointSlices of a Service, or of those that match a label selector"
        " (NAMESPACE/LABEL=VALUE); several separated by ;, keys: " + ", ".join(KEYS),
        default=None,
    )
    kubernetes_api: SafeUrl | None = _option(
        "URL", "API server of --kubernetes; by default the pod's own", default=None
    )
    kubernetes_token: ReadableFile | None = _option(
        "FILE", "token for it, read for every request; by default the pod's own", default=None
    )
    kubernetes_ca: ReadableFile | None = _option(
        "FILE", "authorities (PEM) that verify it, likewise", default=None
    )
    dns: DnsOrigins | None = _option(
        "NAME:model=NAME[,key=value,...]",
        "find workers by the SRV records of a name (_http._tcp.decode.example), or by its addresses"
        " (with the key port); several separated by ;, keys as for --kubernetes",
        default=None,
    )
    dns_server: NameServer | None = _option(
        "IP:PORT", "name server for --dns, instead of those in /etc/resolv.conf", default=None
    )
    dns_interval: Seconds = _option(
        "SECONDS",
        "time between two lookups by --dns, unless the records' time to live is shorter",
        default=10.0,
    )
    discovery_drain: Seconds = _option(
        "SECONDS",
        "how long bookings may continue on a worker that the fleet file, Kubernetes or DNS no"
        " longer lists; the length of a lease",
        default=900.0,
    )
    tls_cert: ReadableFile | None = _option(
        "FILE", "certificate chain (PEM) to serve gRPC over TLS; needs --tls-key", default=None
    )
    tls_key: ReadableFile | None = _option("FILE", "private key (PEM) of --tls-cert", default=None)
    tls_client_ca: ReadableFile | None = _option(
        "FILE",
        "authorities (PEM); a client's certificate must be signed by one of them (mutual TLS)",
        default=None,
    )
    tokens: ReadableFile | None = _option(
        "FILE",
        "TOML file of bearer tokens and their roles; without it every call is allowed",
        default=None,
    )
    jwks: KeySource | None = _option(
        "FILE|URL",
        "key set (JWKS) of the issuer of tokens that are JWTs; needs --jwt-issuer and"
        " --jwt-audience",
        default=None,
    )
    jwks_max_age: Seconds = _option(
        "SECONDS",
        "how long the last good keys stay valid while --jwks cannot be read; covers a day's outage",
        default=86_400.0,
    )
    jwt_issuer: str | None = _option("NAME", "required `iss` of a JWT", default=None)
    jwt_audience: str | None = _option("NAME", "required `aud` of a JWT", default=None)
    jwt_leeway: float = _option(
        "SECONDS",
        "allowed difference between the issuer's clock and this one",
        default=30.0,
        ge=0,
        le=600,
        allow_inf_nan=False,
    )
    jwt_roles_claim: str = _option(
        "CLAIM", "claim with a JWT's roles: a list, or a string of words", default="roles"
    )
    jwt_models_claim: str = _option(
        "CLAIM", "claim with the models that a JWT is for; without it, all", default="models"
    )
    insecure: bool = Field(
        description="serve beyond loopback although anyone could call or intercept the tokens",
        default=False,
    )
    log_format: Literal["console", "json"] = _option(
        "console|json", "logs on stderr, for people or for programs", default="console"
    )
    log_level: Literal["debug", "info", "warning", "error"] = _option(
        "debug|info|warning|error", "the least severe level that is logged", default="info"
    )
    port_file: Path | None = _option(
        "FILE",
        'gets {"grpc": "HOST:PORT", "http": "HOST:PORT"} once the daemon serves',
        default=None,
    )
    drain_seconds: float = _option(
        "SECONDS",
        "at SIGTERM, how long bookings may go on before the daemon stops; Kubernetes grants 30 by"
        " default",
        default=30.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
    )
    report_interval: Seconds = _option(
        "SECONDS",
        "how often workers are asked to report; bookings bridge the gaps, so 1 is enough",
        default=1.0,
    )
    report_limit: Seconds = _option(
        "SECONDS",
        "a report older than this is stale and not counted in loads; five missed reports",
        default=5.0,
    )
    suspect_after: Seconds = _option(
        "SECONDS",
        "a worker that reports, or has a time to live, is suspect after so long a silence: it gets"
        " requests only if no other worker can take them; ten missed reports",
        default=10.0,
    )
    hold_down: float = _option(
        "SECONDS",
        "a worker that leaves and returns repeatedly gets requests only if no other can take them,"
        " for 4 s, 8 s, … up to this; 0 for never",
        default=60.0,
        ge=0,
        le=3_600,
        allow_inf_nan=False,
    )
    relief: float = _option(
        "FACTOR",
        "largest factor on the load, as policies see it, of a worker that is slower than its peers;"
        " 1 for none",
        default=4.0,
        ge=1,
        le=100,
        allow_inf_nan=False,
    )
    groups: Literal["only", "prefer"] = _option(
        "only|prefer",
        "whether a request may go only to decode workers of its prefill worker's group, or also"
        " to others if none of them can take it; only, where groups cannot pass KV to each other",
        default="only",
    )
    lease_ttl: float = _option(
        "SECONDS",
        "how long a booking lives after its last sign of life, 1 to 86400, unless Route says"
        " otherwise; longer than almost every answer takes",
        default=900.0,
        ge=1,
        le=86_400,
        allow_inf_nan=False,
    )
    signature_ttl: Seconds = _option(
        "SECONDS",
        "how long a signature is held for a Route that does not come; prefills end long before",
        default=600.0,
    )
    signature_memory_bytes: ByteSize = _option(
        "BYTES",
        "memory for signatures, oldest dropped first, such as 64MiB; about 10,000 signatures of 48"
        " layers x 128 experts",
        default=ByteSize(256 << 20),
        ge=1 << 20,
    )
    prediction_memory_bytes: ByteSize = _option(
        "BYTES",
        "memory per model for the experts that conversations, prompt prefixes and tenants used, by"
        " which requests without a signature are placed; a third for each, where 32 MiB hold about"
        " 2,600 of 48 layers x 128 experts; 0 keeps none",
        default=ByteSize(96 << 20),
        ge=0,
    )
    default_capacity: int = _option(
        "SEQUENCES",
        "maximum sequences of a worker that does not state a capacity; vLLM's default",
        default=256,
        ge=1,
        le=1 << 31,
    )
    alternates: int = _option(
        "COUNT", "alternates named after the chosen worker, to try next", default=3, ge=0, le=64
    )
    explanations: int = _option(
        "COUNT",
        "past decisions per model that eldr explain REQUEST can explain, in at most 16 MiB; about"
        " 4 KB each with 24 workers",
        default=4_096,
        ge=0,
        le=1_000_000,
    )
    max_calls: int = _option(
        "COUNT",
        "calls and streams in flight per connection, beyond which calls wait in the client; more"
        " than a scheduler needs",
        default=4_096,
        ge=1,
        le=1 << 20,
    )
    max_calls_in_all: int = _option(
        "COUNT",
        "calls and streams in progress on all connections; beyond it, callers with their share or"
        " more of them are refused, and beyond twice as many all are. Release, renewals and reports"
        " are not refused before that",
        default=8_192,
        ge=1,
        le=1 << 20,
    )
    max_connections: int = _option(
        "COUNT",
        "connections per gRPC port, beyond which new ones are closed at once; fewer if the process"
        " may not open so many files",
        default=4_096,
        ge=1,
        le=1 << 20,
    )
    max_waiting: int = _option(
        "COUNT",
        "calls that wait for a place (max_wait) over all models and callers; beyond it, the longest"
        " line loses its last call",
        default=4_096,
        ge=1,
        le=1 << 20,
    )
    max_workers: int = _option(
        "COUNT",
        "workers over all models; more are refused, so that a loop cannot exhaust the memory",
        default=4_096,
        ge=1,
    )
    max_models: int = _option(
        "COUNT", "models; more are refused, for the same reason", default=256, ge=1
    )
    load_comparison: Literal["on", "off"] = _option(
        "on|off",
        "estimate what load alone would have done with the same requests, while the page is open or"
        " metrics are scraped; off saves about 80 us per request",
        default="on",
    )
    metrics_workers: int = _option(
        "COUNT",
        "workers with their own series in the metrics, over all models; the others' sums have the"
        " worker `other`",
        default=1_024,
        ge=0,
    )
    refit: Literal["off", "manual", "auto"] = _option(
        "off|manual|auto",
        "auto refits partitions to recent traffic by itself; manual only keeps the window of"
        " signatures for `eldr fit`; off keeps none",
        default="auto",
    )
    refit_interval: Seconds = _option(
        "SECONDS",
        "least time between a model's refits; a new partition moves placements",
        default=300.0,
    )
    refit_window: Seconds = _option(
        "SECONDS",
        "greatest age of the signatures to refit on, and how long a partition activated by hand is"
        " left alone; a few intervals",
        default=1_800.0,
    )
    refit_memory_bytes: ByteSize = _option(
        "BYTES",
        "memory of each model's window, which samples if more comes; about 5,400 signatures of 48"
        " layers x 128 experts",
        default=ByteSize(64 << 20),
        ge=1 << 20,
    )
    refit_signatures: int = _option(
        "COUNT",
        "signatures per decode worker before the first fit, and new ones before each later fit;"
        " fewer say little about a slot",
        default=32,
        ge=2,
    )
    decision_log: Directory | None = _option(
        "DIR",
        "folder for a log of all that decisions see, for `eldr replay`; it never contains text of"
        " prompts or answers",
        default=None,
    )
    decision_log_max_mb: int = _option(
        "MB",
        "size of the decision log, oldest file deleted first; about 5 KB per decision with 48"
        " layers x 128 experts, so 1000 hold 200,000",
        default=1_000,
        ge=1,
    )
    # Only in the file, as [[models]] tables.
    models: tuple[ModelDeclaration, ...] = ()
