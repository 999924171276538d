"""The settings in `kv_connector_extra_config.eldr`."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from eldr_client.addresses import Addresses

from eldr_vllm.guard import UnsupportedError

_CHOICES = {"role": ("", "prefill", "decode", "both", "replica"), "place": ("caller", "daemon")}
_RANGES = {
    "record_share": (0.0, 1.0),
    "record_max_mb": (64.0, 1e9),  # 64: files of 4
    "probe_every": (0.0, 1e9),
}
_BY_KV_ROLE = {"kv_producer": "prefill", "kv_consumer": "decode"}
_RETIRED = ("force",)  # the capture is now verified automatically
# In a url: the data-parallel rank, or a port computed from it.
URL_RANK = re.compile(r"\{ *(?:(\d+) *\+ *)?dp_rank *(?:% *([1-9]\d*) *)?\}")

UNSAID_ROLE = (
    "ELDR does not register this engine: kv_both does not say whether it is to get prefills, "
    'decodes or both. Set "role": "prefill", "decode" or "both" in '
    'kv_connector_extra_config.eldr, or "replica" if no request is prefilled elsewhere'
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings and their defaults; strings may name environment variables (`$POD_IP`).

    Attributes
    ----------
    router : str
        HOST:PORT of the daemon.
    token, token_file, tls, root_certificates, client_key, client_certificate
        Credentials: a bearer token, or the file that holds it; TLS with the system's roots; PEM
        files.
    timeout : float
        Deadline of each call to the daemon, in seconds. The engine waits for none of them.
    url : str
        Where this engine serves, as others reach it; `{dp_rank}` and `{8200 + dp_rank % 8}` stand
        for its data-parallel rank and a port computed from it. Without a url the engine is not
        registered.
    role : {"", "prefill", "decode", "both", "replica"}
        What this engine does; by default as `kv_role` says. `kv_both` is ambiguous, so the engine
        is then not registered: as a decode worker, a prefill engine would get decodes that it must
        not get. Its prompts and bookings are still followed, as each request says. A replica
        prefills what it decodes: it is a decode worker, and registers the signature of each request
        that it gets under a booking.
    model : str
        The model's name at the daemon; by default the first served model name.
    worker_id : str
        By default the host and port of `url`, with the data-parallel rank if there are several.
    group : str
        Engines that can pass KV to each other; empty means any.
    labels : mapping of str to str
    capacity : int
        Sequences in flight; by default `max_num_seqs`.
    time_to_live : float
        Seconds of silence after which the daemon treats the engine as gone.
    health_check : bool
        Register as JOINING until `url`/health answers.
    stream : bool
        Send a long prompt's counts chunk by chunk, while it is prefilled.
    place : {"caller", "daemon"}
        Which side asks for the placement: the caller that drives the request, or this shim with
        the last chunk. A request may override it.
    decode_counts : bool
        Release a booking with the activation counts of its answer.
    outbox : int
        Messages to the daemon that may be queued; beyond that the oldest are dropped.
    record : str
        Folder to record the engine's routing and timings to; empty for none.
    record_share : float
        Share of requests, by id, whose experts are recorded. Timings are recorded for all.
    record_max_mb : float
        Total size of this engine's files; the oldest are deleted.
    probe : bool
        Ask the engine for a few short completions before it is READY, to check that equal prompts
        give equal experts. Needs `url` and `health_check`.
    probe_every : float
        Seconds between further completions, one at a time, while the engine serves; 0 for none.
    api_key : str
        Key of the engine's HTTP server, for the probe; by default VLLM_API_KEY.
    """

    router: str = "127.0.0.1:50051"
    token: str = field(default="", repr=False)
    token_file: str = ""
    tls: bool = False
    root_certificates: str = ""
    client_key: str = ""
    client_certificate: str = ""
    timeout: float = 0.5
    url: str = ""
    role: str = ""
    model: str = ""
    worker_id: str = ""
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    capacity: int = 0
    time_to_live: float = 15.0
    health_check: bool = True
    stream: bool = True
    place: str = "caller"
    decode_counts: bool = True
    outbox: int = 4_096
    record: str = ""
    record_share: float = 1.0
    record_max_mb: float = 1_024.0
    probe: bool = True
    probe_every: float = 600.0
    api_key: str = field(default="", repr=False)

    @classmethod
    def read(cls, values: Mapping[str, Any], kv_role: str | None) -> "Settings":
        """Check the configuration, and fill in defaults.

        Raises
        ------
        UnsupportedError
            An unknown setting, or one of a wrong type or value.
        """
        values = {name: value for name, value in values.items() if name not in _RETIRED}
        known = {item.name: item for item in fields(cls)}
        if unknown := values.keys() - known.keys():
            raise UnsupportedError(
                f"unknown settings: {', '.join(sorted(unknown))}; there are {', '.join(known)}"
            )
        given = dict(values)
        for name, value in given.items():
            kind = type(getattr(cls(), name))
            if kind is float and type(value) is int:
                given[name] = float(value)
            elif not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise UnsupportedError(f"{name}: expected {kind.__name__}, found {value!r}")
            if isinstance(value, str):
                given[name] = os.path.expandvars(value)
        for name, choices in _CHOICES.items():
            if given.get(name, choices[0]) not in choices:
                raise UnsupportedError(f"{name}: expected one of {choices}, found {given[name]!r}")
        for name, (low, high) in _RANGES.items():
            if name in given and not low <= given[name] <= high:
                raise UnsupportedError(f"{name}: expected {low:g} to {high:g}, found {given[name]}")
        _check_url(given.get("url", ""))
        try:
            Addresses(given.get("router", cls.router))
        except ValueError as error:
            raise UnsupportedError(f"router: {error}") from error
        given["role"] = given.get("role") or _BY_KV_ROLE.get(kv_role or "", "")
        return cls(**given)

    @property
    def registered(self) -> bool:
        """Whether it is known where this engine serves and what it does."""
        return bool(self.url and self.role)

    @property
    def prefills(self) -> bool:
        """Whether prompts are prefilled here, and get signatures."""
        return self.role != "decode"

    @property
    def decodes(self) -> bool:
        """Whether answers are decoded here."""
        return self.role != "prefill"

    def endpoint(self) -> dict[str, Any]:
        """The keywords of eldr_client's clients and sessions for reaching the daemon.

        Raises
        ------
        OSError
            A file cannot be read.
        """
        return {
            "target": self.router,
            "timeout": self.timeout,
            "token": self.token or _read(self.token_file, text=True),
            "tls": self.tls,
            "root_certificates": _read(self.root_certificates),
            "client_key": _read(self.client_key),
            "client_certificate": _read(self.client_certificate),
        }


def _check_url(url: str) -> None:
    plain = URL_RANK.sub("", url)
    if odd := re.search(r"\$\w+|\$?\{.*?\}", plain):
        raise UnsupportedError(
            f"url: expected a variable of the environment, {{dp_rank}} or {{8200 + dp_rank % 8}}, "
            f"found {odd[0]}"
        )


def _read(path: str, text: bool = False) -> Any:
    if not path:
        return None
    return Path(path).read_text().strip() if text else Path(path).read_bytes()
