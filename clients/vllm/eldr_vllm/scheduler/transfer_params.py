"""The key `eldr` of kv_transfer_params, in both directions."""

import base64
import re
from dataclasses import KW_ONLY, asdict, dataclass, field
from typing import Any

from eldr.v1.activation_pb2 import ActivationCounts
from eldr_client import Placement
from vllm import envs


@dataclass(frozen=True, slots=True)
class Booking:
    """The placement that a decode request belongs to.

    It consists of `num_sequences` requests of the engine (n of the OpenAI API). If the answer moved
    here, other engines generated `output_tokens`, the first of them `decode_seconds` ago.
    """

    request_id: str
    attempt: int
    lease_id: str
    num_sequences: int
    _: KW_ONLY
    output_tokens: int = field(default=0, compare=False)
    decode_seconds: float = field(default=0.0, compare=False)
    # The caller's span.
    context: dict[str, str] = field(default_factory=dict, compare=False)


def request_name(request: Any) -> str:
    """The id under which the caller knows the request: the one in `eldr`, else vLLM's."""
    said = _said(request).get("request_id")
    return said if isinstance(said, str) and said else external_id(request.request_id)


def first_epoch(request: Any) -> int:
    """The first epoch of a prefill; a caller's tries are further apart than preemptions add."""
    return _number(_said(request), "epoch") << 8


def places(request: Any, place: str) -> bool:
    """Whether the shim should ask for the placement; the caller's choice overrides `place`."""
    said = _said(request).get("place")
    return (said if said in ("caller", "daemon") else place) == "daemon"


def is_prefill(request: Any, role: str) -> bool:
    """Whether this engine is to prefill the request's prompt for a signature.

    An engine with one role knows; others go by the request. A replica's prompts are, if the daemon
    placed the request.
    """
    if role == "replica":
        return booking(request) is not None
    if role in ("prefill", "decode"):
        return role == "prefill"
    return bool((request.kv_transfer_params or {}).get("do_remote_decode"))


def booking(request: Any) -> Booking | None:
    """The booking named by a decode request; None if ELDR did not place it."""
    said = _said(request)
    if not said.get("request_id") or not said.get("lease_id"):
        return None
    return Booking(
        str(said["request_id"]),
        _number(said, "attempt"),
        str(said["lease_id"]),
        max(_number(said, "num_sequences"), 1),
        output_tokens=_number(said, "output_tokens"),
        decode_seconds=_seconds(said, "decode_seconds"),
        context=trace_context(request),
    )


def trace_context(request: Any) -> dict[str, str]:
    """The caller's W3C Trace Context: from `eldr`, else as vLLM read it from the headers.

    vLLM reads them only with --otlp-traces-endpoint.
    """
    said = _said(request)
    fields = said if "traceparent" in said else getattr(request, "trace_headers", None) or {}
    found = {name: fields.get(name) for name in ("traceparent", "tracestate")}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def encode_counts(counts: ActivationCounts) -> str:
    """ActivationCounts as base64, for JSON."""
    return base64.b64encode(counts.SerializeToString()).decode("ascii")


def encode_placement(placement: Placement) -> dict[str, Any]:
    """The fields of a placement that a proxy needs, for JSON."""
    return {
        "worker_id": placement.worker_id,
        "url": placement.url,
        "dp_rank": placement.dp_rank,
        "alternates": [asdict(target) for target in placement.alternates],
        "reason": placement.reason.value,
        "policy": placement.policy,
        "partition_version": placement.partition_version,
        "attempt": 0,
        "lease_id": placement.lease_id,
        "coverage": placement.coverage,
        "early": placement.early,
        "similarity": placement.similarity,
    }


def is_probe(request: Any, key: str) -> bool:
    """Whether the request is the engine's own probe; only the engine knows `key`."""
    return _said(request).get("probe") == key


_SUFFIX = re.compile(r"-[0-9a-f]{8}$")


def external_id(request_id: str) -> str:
    """The request's id as its caller knows it: without the suffix that vLLM appends.

    vLLM (0.30 to 0.33) appends it to every request, however it came and whatever its id; an
    environment variable, read as vLLM reads it, turns that off.
    """
    if getattr(envs, "VLLM_DISABLE_REQUEST_ID_RANDOMIZATION", False):
        return request_id
    return _SUFFIX.sub("", request_id)


def _number(said: dict[str, Any], key: str) -> int:
    """The caller's value, if it is a number that the contract can hold; else 0."""
    value = said.get(key)
    return value if isinstance(value, int) and 0 <= value < 1 << 24 else 0


def _seconds(said: dict[str, Any], key: str) -> float:
    """The same of a duration."""
    value = said.get(key)
    return float(value) if isinstance(value, int | float) and 0 <= value < 1 << 24 else 0.0


def _said(request: Any) -> dict[str, Any]:
    said = (request.kv_transfer_params or {}).get("eldr")
    return said if isinstance(said, dict) else {}
