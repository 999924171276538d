"""What the daemon can be told: a field is a flag, a variable and a key of the file."""

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
    """A model whose geometry the file declares, so that no worker can claim another one."""

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
    """All options in the order of --help, each checked by itself."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,  # set but empty is how many tools say "not set"
        enable_decoding=False,  # variables are written as flags are, not as JSON
        extra="forbid",
        frozen=True,
        validate_default=False,
    )

    listen: ListenAddress = _option(
        "HOST:PORT",
        "where gRPC is served, port 0 for a free one; loopback, as nothing guards it by default",
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
        "where the page, metrics and health are served: the page to this machine, with tokens to"
        " admins; the others to all",
        default=Address("127.0.0.1", 9464),
    )
    state: State = _option(
        f"DIR|{MEMORY}|URL",
        f"what survives a restart: bookings, workers, partitions, policies; {MEMORY} keeps nothing;"
        " daemons with the same redis:// URL are one router",
        default_factory=default_state,
    )
    state_password: ReadableFile | None = _option(
        "FILE", "PASSWORD or USER:PASSWORD for a --state that is a URL", default=None
    )
    state_timeout: Seconds = _option(
        "SECONDS",
        "how long answers wait for a --state that is a URL, until this daemon goes on by its own"
        " view; far more than a commit takes",
        default=0.25,
    )
    durability: Literal["process", "power"] = _option(
        "process|power",
        "what an acknowledged booking survives: the end of the process, kill -9 included, or also a"
        " power cut, for which each answer waits for the disk",
        default="process",
    )
    config: ReadableFile | None = _option(
        "FILE", "TOML file with any of these settings; a flag or variable beats it", default=None
    )
    policy: PolicyChoice = _option(
        "NAME[:key=value,...]",
        "policy of models that were given no other; `eldr policy list --offline` lists them",
        default="locality-band",
    )
    fleet: ReadableFile | None = _option(
        "FILE",
        "TOML file of workers that do not register by themselves; followed as it changes",
        default=None,
    )
    kubernetes: KubernetesOrigins | None = _option(
        "NAMESPACE/SERVICE[:key=value,...]",
        "find workers by the EndpointSlices of a Service, or of those that a label selector"
        " (NAMESPACE/LABEL=VALUE) fits; several with ; between them; keys: " + ", ".join(KEYS),
        default=None,
    )
    kubernetes_api: SafeUrl | None = _option(
        "URL", "API server of --kubernetes; without it, that of the pod which this is", default=None
    )
    kubernetes_token: ReadableFile | None = _option(
        "FILE", "token for it, read again for every request; a pod has its own", default=None
    )
    kubernetes_ca: ReadableFile | None = _option(
        "FILE", "authorities (PEM) that vouch for it, likewise", default=None
    )
    dns: DnsOrigins | None = _option(
        "NAME:model=NAME[,key=value,...]",
        "find workers by the SRV records of a name (_http._tcp.decode.example), or by the addresses"
        " of one (with the key port); several with ; between them, keys as of --kubernetes",
        default=None,
    )
    dns_server: NameServer | None = _option(
        "IP:PORT", "name server of --dns, rather than those of /etc/resolv.conf", default=None
    )
    dns_interval: Seconds = _option(
        "SECONDS",
        "between two looks by --dns, unless the records' time to live is shorter",
        default=10.0,
    )
    discovery_drain: Seconds = _option(
        "SECONDS",
        "how long bookings may go on that are on a worker which the fleet file, Kubernetes or DNS"
        " name no more; a lease's length",
        default=900.0,
    )
    tls_cert: ReadableFile | None = _option(
        "FILE", "certificate chain (PEM) to serve gRPC over TLS; needs --tls-key", default=None
    )
    tls_key: ReadableFile | None = _option("FILE", "private key (PEM) of --tls-cert", default=None)
    tls_client_ca: ReadableFile | None = _option(
        "FILE",
        "authorities (PEM), one of which must have signed a client's certificate (mutual TLS)",
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
        "how long the last good keys go on where --jwks cannot be read; a day of outage",
        default=86_400.0,
    )
    jwt_issuer: str | None = _option("NAME", "what a JWT must have as `iss`", default=None)
    jwt_audience: str | None = _option("NAME", "what a JWT must have as `aud`", default=None)
    jwt_leeway: float = _option(
        "SECONDS",
        "by how much the issuer's clock and this one may differ",
        default=30.0,
        ge=0,
        le=600,
        allow_inf_nan=False,
    )
    jwt_roles_claim: str = _option(
        "CLAIM", "where a JWT says its roles: a list, or words in a text", default="roles"
    )
    jwt_models_claim: str = _option(
        "CLAIM", "where a JWT says the models it is for, all without it", default="models"
    )
    insecure: bool = Field(
        description="serve beyond loopback although anyone could call or overhear the tokens",
        default=False,
    )
    log_format: Literal["console", "json"] = _option(
        "console|json", "logs on stderr, for eyes or for programs", default="console"
    )
    log_level: Literal["debug", "info", "warning", "error"] = _option(
        "debug|info|warning|error", "the least severe message that is logged", default="info"
    )
    port_file: Path | None = _option(
        "FILE",
        'gets {"grpc": "HOST:PORT", "http": "HOST:PORT"} once the daemon serves',
        default=None,
    )
    drain_seconds: float = _option(
        "SECONDS",
        "at SIGTERM, how long bookings may go on before the daemon stops; 30 is what Kubernetes"
        " grants",
        default=30.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
    )
    report_interval: Seconds = _option(
        "SECONDS",
        "how often workers are asked to report; bookings bridge the time between, so 1 is plenty",
        default=1.0,
    )
    report_limit: Seconds = _option(
        "SECONDS",
        "a worker's report older than this is stale and out of the loads; five reports missed",
        default=5.0,
    )
    suspect_after: Seconds = _option(
        "SECONDS",
        "a worker that reports, or has a time to live, gets a request only where no other can take"
        " it after so long a silence; ten reports missed",
        default=10.0,
    )
    hold_down: float = _option(
        "SECONDS",
        "a worker that leaves and returns again and again gets a request only where no other can"
        " take it for 4 s, 8 s, … up to this; 0 for never",
        default=60.0,
        ge=0,
        le=3_600,
        allow_inf_nan=False,
    )
    relief: float = _option(
        "FACTOR",
        "by what the load of a worker that is slower than its peers is multiplied at most, in"
        " the eyes of policies; 1 leaves it",
        default=4.0,
        ge=1,
        le=100,
        allow_inf_nan=False,
    )
    groups: Literal["only", "prefer"] = _option(
        "only|prefer",
        "whether a request may go to the decode workers of its prefill worker's group only, or to"
        " others where none of them can take it; only, where groups cannot pass KV to each other",
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
        "how long a signature is held for a Route that does not come; prefill is over long before",
        default=600.0,
    )
    signature_memory_bytes: ByteSize = _option(
        "BYTES",
        "memory for signatures, the oldest dropped first, such as 64MiB; about 10,000 signatures"
        " of 48 layers x 128 experts",
        default=ByteSize(256 << 20),
        ge=1 << 20,
    )
    prediction_memory_bytes: ByteSize = _option(
        "BYTES",
        "memory of each model for what conversations, prompts' prefixes and tenants use of experts,"
        " by which requests without a signature are placed; a third of it for each, of which 32 MiB"
        " are about 2,600 of 48 layers x 128 experts; 0 keeps none",
        default=ByteSize(96 << 20),
        ge=0,
    )
    default_capacity: int = _option(
        "SEQUENCES",
        "sequences that a worker holds at most if it does not say; vLLM's default",
        default=256,
        ge=1,
        le=1 << 31,
    )
    alternates: int = _option(
        "COUNT", "workers named beside the chosen one, to try next", default=3, ge=0, le=64
    )
    explanations: int = _option(
        "COUNT",
        "decisions of each model that eldr explain REQUEST can look back on, in 16 MiB at most;"
        " about 4 KB each with 24 workers",
        default=4_096,
        ge=0,
        le=1_000_000,
    )
    max_calls: int = _option(
        "COUNT",
        "calls and streams in flight per connection, further ones wait in the client; far more than"
        " a scheduler has",
        default=4_096,
        ge=1,
        le=1 << 20,
    )
    max_calls_in_all: int = _option(
        "COUNT",
        "calls and streams in progress on all connections; then whoever has its share of them is"
        " refused, and at more than twice as many everyone. Release, renewals and reports are never"
        " refused before that",
        default=8_192,
        ge=1,
        le=1 << 20,
    )
    max_connections: int = _option(
        "COUNT",
        "connections per gRPC port, further ones are closed at once; fewer where the process may"
        " not open so many files",
        default=4_096,
        ge=1,
        le=1 << 20,
    )
    max_waiting: int = _option(
        "COUNT",
        "calls that wait for a place (max_wait) over all models and callers; the line that has the"
        " most gives way",
        default=4_096,
        ge=1,
        le=1 << 20,
    )
    max_workers: int = _option(
        "COUNT",
        "workers over all models; more are refused, so that a loop cannot fill the memory",
        default=4_096,
        ge=1,
    )
    max_models: int = _option(
        "COUNT", "models; more are refused, for the same reason", default=256, ge=1
    )
    load_comparison: Literal["on", "off"] = _option(
        "on|off",
        "estimate what load alone would have done with the same requests, while the page is looked"
        " at or metrics are scraped; off spares some 80 us per request",
        default="on",
    )
    metrics_workers: int = _option(
        "COUNT",
        "workers that have series of their own in the metrics, over all models; what can be added"
        " up of the others has the worker `other`",
        default=1_024,
        ge=0,
    )
    refit: Literal["off", "manual", "auto"] = _option(
        "off|manual|auto",
        "auto refits partitions to recent traffic by itself; manual keeps the window of signatures"
        " for `eldr fit`; off keeps none",
        default="auto",
    )
    refit_interval: Seconds = _option(
        "SECONDS",
        "time between a model's refits at least; a new partition moves placements",
        default=300.0,
    )
    refit_window: Seconds = _option(
        "SECONDS",
        "age of the signatures that partitions are refitted to, at most, and how long one that was"
        " activated by hand is left alone; a few intervals",
        default=1_800.0,
    )
    refit_memory_bytes: ByteSize = _option(
        "BYTES",
        "memory of each model's window, a sample where more comes; about 5,400 signatures of 48"
        " layers x 128 experts",
        default=ByteSize(64 << 20),
        ge=1 << 20,
    )
    refit_signatures: int = _option(
        "COUNT",
        "signatures for each decode worker before the first fit, and new ones before each later"
        " one; fewer say little of a slot",
        default=32,
        ge=2,
    )
    decision_log: Directory | None = _option(
        "DIR",
        "log all that decisions see, for `eldr replay`, to a folder of its own; no text of prompts"
        " or answers is ever in it",
        default=None,
    )
    decision_log_max_mb: int = _option(
        "MB",
        "size of the decision log, the oldest file deleted first; some 5 KB a decision with 48"
        " layers x 128 experts, so 1000 hold 200,000",
        default=1_000,
        ge=1,
    )
    # Only in the file, as [[models]] tables.
    models: tuple[ModelDeclaration, ...] = ()
