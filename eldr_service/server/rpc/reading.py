"""Converts messages to the domain and checks every field; errors name field, expected and found."""

import zlib
from collections.abc import Collection, Mapping
from enum import IntEnum
from functools import lru_cache
from math import inf
from typing import Any, TypeVar

import numpy as np
from eldr.v1 import activation_pb2, fleet_pb2, router_pb2
from google.protobuf.duration_pb2 import Duration
from numpy.typing import NDArray

from eldr_service.core.activation import (
    ActivationCounts,
    dense_counts,
    layers_present,
)
from eldr_service.core.capture import CaptureState, CaptureStatus
from eldr_service.core.errors import InvalidArgumentError
from eldr_service.core.escaping import unfit
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.worker import LoadReport, WorkerRole, WorkerSpec, WorkerState
from eldr_service.kernels.core.sparse import NOT_INCREASING, TOO_LARGE, sparse_counts
from eldr_service.routing.call import RouteCall
from eldr_service.server.rpc.caller import own

MAX_MODEL = 256
MAX_REQUEST_ID = 512
MAX_SESSION = 512
MAX_PREFIX_HASHES = 4_096
MAX_WORKER_ID = 256
MAX_URL = 2_048
MAX_LABELS = 64
MAX_LABEL = 256
MAX_REASON = 1_024
MAX_SOFTWARE = 256
MAX_LISTED = 32_768  # more than any engine runs; decoding so many takes two milliseconds
MAX_WORKERS = 4_096  # in a list: as many as a daemon may know
MAX_SEQUENCES = 4_096
MAX_WAIT_SECONDS = 10.0
MAX_WAIT_FOR_PLACE_SECONDS = 60.0
MAX_PRIORITY = 10
LEASE_SECONDS = (1.0, 86_400.0)
DEFAULT_BLOCK_TOKENS = 16  # vLLM's
MAX_BLOCK_TOKENS = 65_536
MAX_KV_TOKENS = 1 << 48  # leaves room for sums in 64 bits

Choice = TypeVar("Choice", bound=IntEnum)


def text(field: str, value: str, longest: int, required: bool = False) -> str:
    """Check a name: its length in bytes of UTF-8, and that it has no control characters."""
    prose(field, value, longest, required)
    if not value.isprintable() and (character := unfit(value)):
        raise InvalidArgumentError(
            field, "no control or format characters", f"U+{ord(character):04X}"
        )
    return value


def prose(field: str, value: str, longest: int, required: bool = False) -> str:
    """Check a text's length in bytes of UTF-8."""
    if not value and not required:
        return value
    # No character is shorter than a byte: long texts are refused without encoding.
    length = len(value) if len(value) > longest or value.isascii() else len(value.encode())
    if length > longest or (required and not value):
        raise InvalidArgumentError(
            field, f"{int(required)} to {longest} bytes", f"{length} bytes" if value else "nothing"
        )
    return value


def model_name(request: Any) -> str:
    """Check a request's model, and that it is one of the caller's."""
    return own(text("model", request.model, MAX_MODEL, required=True))


def listed_model(request: Any) -> str:
    """Check the model of a request in which none stands for all of the caller's."""
    name = text("model", request.model, MAX_MODEL)
    return own(name) if name else name


def worker_id(request: Any) -> str:
    """Check a request's worker."""
    return text("worker_id", request.worker_id, MAX_WORKER_ID, required=True)


def request_id(request: Any) -> str:
    """Check a request's own id."""
    return text("request_id", request.request_id, MAX_REQUEST_ID, required=True)


def seconds(field: str, value: Duration, low: float, high: float) -> float:
    """Check a duration; return it in seconds."""
    amount: float = value.seconds + value.nanos / 1e9
    if not low <= amount <= high:
        raise InvalidArgumentError(field, f"{low:g} to {high:g} s", f"{amount:g} s")
    return amount


def choice(field: str, kind: type[Choice], value: int) -> Choice:
    """Check an enum's number, which in proto3 can be any; 0 means the first."""
    if value == 0:
        return next(iter(kind))
    if value not in list(kind):
        raise InvalidArgumentError(field, f"one of {', '.join(c.name for c in kind)}", value)
    return kind(value)


def wait_seconds(request: router_pb2.RouteRequest | router_pb2.RouteStreamRequest) -> float:
    """Check how long a Route may wait for its signature."""
    return seconds("wait_for_signature", request.wait_for_signature, 0.0, MAX_WAIT_SECONDS)


def place_in_line(
    request: router_pb2.RouteRequest | router_pb2.RouteStreamRequest,
) -> tuple[float, int]:
    """Check how long a Route may wait for a place, and its priority."""
    if abs(request.priority) > MAX_PRIORITY:
        raise InvalidArgumentError(
            "priority", f"-{MAX_PRIORITY} to {MAX_PRIORITY}", request.priority
        )
    if not request.HasField("max_wait"):
        return 0.0, request.priority
    wait = seconds("max_wait", request.max_wait, 0.0, MAX_WAIT_FOR_PLACE_SECONDS)
    return wait, request.priority


def labels(field: str, value: Mapping[str, str]) -> dict[str, str]:
    """Check labels."""
    if not value:
        return {}
    if len(value) > MAX_LABELS:
        raise InvalidArgumentError(field, f"at most {MAX_LABELS} labels", len(value))
    return {
        text(field, key, MAX_LABEL, required=True): text(f"{field}.{key}", entry, MAX_LABEL)
        for key, entry in value.items()
    }


def worker_ids(field: str, values: Collection[str]) -> frozenset[str]:
    """Check a list of workers."""
    if not values:
        return frozenset()
    if len(values) > MAX_WORKERS:
        raise InvalidArgumentError(field, f"at most {MAX_WORKERS} workers", len(values))
    return frozenset(text(field, v, MAX_WORKER_ID, required=True) for v in values)


class inside:  # noqa: N801 (used as a function is)
    """Prefix the fields of errors inside the block with the field's path."""

    def __init__(self, field: str) -> None:
        self._field = field

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, InvalidArgumentError):
            within = "" if error.field == "counts" else f".{error.field}"
            raise InvalidArgumentError(
                f"{self._field}{within}", error.expected, error.found
            ) from error


def geometry(
    message: activation_pb2.ModelGeometry | activation_pb2.ActivationCounts,
) -> ModelGeometry:
    """Check a geometry, or that of counts."""
    return _geometry(message.num_layers, message.num_experts, message.top_k)


@lru_cache(maxsize=256)  # few models, many messages
def _geometry(num_layers: int, num_experts: int, top_k: int) -> ModelGeometry:
    return ModelGeometry(num_layers, num_experts, top_k)


def activation_counts(field: str, message: activation_pb2.ActivationCounts) -> ActivationCounts:
    """Check and unpack counts."""
    with inside(field):
        return _activation_counts(message)


def _activation_counts(message: activation_pb2.ActivationCounts) -> ActivationCounts:
    shape = geometry(message)
    rows = layers_present(shape, message.layer_offset, message.layers_present)
    match message.WhichOneof("encoding"):
        case "dense_u16":
            counts = dense_counts(message.dense_u16, rows, shape, width=2)
        case "dense_u32":
            counts = dense_counts(message.dense_u32, rows, shape, width=4)
        case "sparse":
            counts = _sparse_counts(message.sparse, rows, shape)
        case _ if message.num_tokens == 0:
            counts = np.zeros((rows, shape.num_experts), dtype=np.uint16)
        case _:
            raise InvalidArgumentError(
                "encoding", "dense_u16, dense_u32 or sparse", "none that is known"
            )
    return ActivationCounts(
        shape, message.layer_offset, counts, message.num_tokens, message.unknown_tokens
    )


def _sparse_counts(
    message: activation_pb2.SparseCounts, rows: int, shape: ModelGeometry
) -> NDArray[np.uint32]:
    size, pairs = rows * shape.num_experts, len(message.index)
    if len(message.count) != pairs:
        raise InvalidArgumentError("sparse.count", f"{pairs} entries", len(message.count))
    if pairs > size:
        raise InvalidArgumentError("sparse.index", f"at most {size} entries", pairs)
    data = np.frombuffer(message.SerializeToString(), dtype=np.uint8)
    counts, wrong = sparse_counts(data, size)
    if wrong == NOT_INCREASING:
        raise InvalidArgumentError("sparse.index", "strictly increasing", "one that is not")
    if wrong == TOO_LARGE:
        raise InvalidArgumentError("sparse.index", f"below {size}", max(message.index))
    return counts.reshape(rows, shape.num_experts)


def fingerprint(message: activation_pb2.ActivationCounts) -> int:
    """A fingerprint of these counts that is stable across runs."""
    return zlib.crc32(message.SerializeToString())


def route_call(request: router_pb2.RouteRequest) -> RouteCall:
    """Check a RouteRequest, or a RouteStreamRequest, which has the same fields."""
    model = model_name(request)
    sequences = request.num_sequences or 1
    if sequences > MAX_SEQUENCES:
        raise InvalidArgumentError("num_sequences", f"at most {MAX_SEQUENCES}", sequences)
    lease = None
    if request.HasField("lease_ttl"):
        lease = seconds("lease_ttl", request.lease_ttl, *LEASE_SECONDS)
    inline = request.HasField("counts")
    prefill_worker = text("prefill_worker", request.prefill_worker, MAX_WORKER_ID)
    candidates = worker_ids("candidate_workers", request.candidate_workers)
    excluded = worker_ids("exclude_workers", request.exclude_workers)
    selector = labels("worker_selector", request.worker_selector)
    pinned_worker = text("pinned_worker", request.pinned_worker, MAX_WORKER_ID)
    own_labels = labels("labels", request.labels)
    session = text("session", request.session, MAX_SESSION)
    prefix_hashes = tuple(request.prefix_hashes[:MAX_PREFIX_HASHES])
    block_tokens = request.prefix_block_tokens or DEFAULT_BLOCK_TOKENS
    if block_tokens > MAX_BLOCK_TOKENS:
        raise InvalidArgumentError(
            "prefix_block_tokens", f"at most {MAX_BLOCK_TOKENS}", block_tokens
        )
    of_counts = fingerprint(request.counts) + 1 if inline else 0
    # Everything that the decision and its booking depend on. Not the answer's format, nor who holds
    # the prompt: that changes while a caller retries, and a shim that asked may give it where the
    # caller need not.
    payload: tuple[object, ...] = (
        sequences,
        request.prompt_tokens,
        request.expected_output_tokens,
        prefill_worker,
        sorted(candidates),
        sorted(excluded),
        sorted(selector.items()),
        pinned_worker,
        lease,
        sorted(own_labels.items()),
    )
    if session:  # bookings of callers that send none keep their fingerprints
        payload += (session,)
    return RouteCall(
        model=model,
        request_id=request_id(request),
        attempt=request.attempt,
        counts=activation_counts("counts", request.counts) if inline else None,
        num_sequences=sequences,
        prompt_tokens=request.prompt_tokens,
        expected_output_tokens=request.expected_output_tokens,
        prefill_worker=prefill_worker,
        candidate_workers=candidates,
        exclude_workers=excluded,
        worker_selector=selector,
        pinned_worker=pinned_worker,
        dry_run=request.dry_run,
        explain=request.explain,
        lease_seconds=lease,
        labels=own_labels,
        session=session,
        prefix_hashes=prefix_hashes,
        movable=request.movable,
        cached_tokens=_cached_tokens(request.cached_tokens),
        prefix_block_tokens=block_tokens,
        fingerprint=zlib.crc32(repr(payload).encode()) | of_counts << 32,
    )


def _cached_tokens(value: Mapping[str, int]) -> dict[str, int]:
    """Check how many tokens of a prompt workers are said to hold."""
    if not value:
        return {}
    worker_ids("cached_tokens", value.keys())
    return dict(value)


def worker_geometry(request: fleet_pb2.RegisterWorkerRequest) -> ModelGeometry | None:
    """Check the geometry that a worker states, if any."""
    if not request.HasField("geometry"):
        return None
    with inside("geometry"):
        return geometry(request.geometry)


def worker_spec(request: fleet_pb2.RegisterWorkerRequest, default_capacity: int) -> WorkerSpec:
    """Check a worker's registration."""
    return WorkerSpec(
        worker_id=worker_id(request),
        role=choice("role", WorkerRole, request.role),
        url=text("url", request.url, MAX_URL),
        dp_rank=request.dp_rank,
        group=text("group", request.group, MAX_LABEL),
        labels=labels("labels", request.labels),
        capacity_sequences=request.capacity.sequences or default_capacity,
        capacity_kv_tokens=_below("capacity.kv_tokens", request.capacity.kv_tokens, MAX_KV_TOKENS),
        time_to_live=seconds("time_to_live", request.time_to_live, 0.0, LEASE_SECONDS[1]),
        capture=capture_status(request),
    )


def incarnation(request: fleet_pb2.RegisterWorkerRequest) -> int:
    """Check a worker's stated incarnation; 0 for a new one."""
    return _below("incarnation", request.incarnation, 1 << 63)


def drain_seconds(request: fleet_pb2.DrainWorkerRequest) -> float:
    """Check how long a drain may take; infinite if not given."""
    if not request.HasField("deadline"):
        return inf
    return seconds("deadline", request.deadline, 0.0, LEASE_SECONDS[1])


def capture_status(
    request: fleet_pb2.RegisterWorkerRequest | fleet_pb2.ReportLoadRequest,
) -> CaptureStatus | None:
    """Check a worker's capture status; None if not given."""
    said = request.capture
    reason = prose("capture.reason", said.reason, MAX_REASON)
    if not said.state:
        return None
    state = choice("capture.state", CaptureState, said.state)
    software = prose("capture.software", said.software, MAX_SOFTWARE)
    return CaptureStatus(state, reason, said.known_tokens, said.unknown_tokens, software)


def initial_state(request: fleet_pb2.RegisterWorkerRequest) -> WorkerState:
    """Check the state in which a worker registers."""
    state = choice("state", WorkerState, request.state or WorkerState.READY)
    if state not in (WorkerState.JOINING, WorkerState.READY):
        raise InvalidArgumentError("state", "JOINING or READY", state.name)
    return state


def load_report(request: fleet_pb2.ReportLoadRequest) -> LoadReport:
    """Check a worker's report; the requests it holds are read separately, as they may be many."""
    if len(request.held) > MAX_LISTED:
        raise InvalidArgumentError("held", f"at most {MAX_LISTED} requests", len(request.held))
    for field in ("active_experts", "batch_size", "step_active_experts"):
        value = getattr(request, field)
        if not 0 <= value < 1e9:  # rejects NaN too
            raise InvalidArgumentError(field, "0 to 1e9", value)
    return LoadReport(
        incarnation=_below("incarnation", request.incarnation, 1 << 63),
        number=_below("report_number", request.report_number, 1 << 63),
        running_sequences=request.running_sequences,
        waiting_sequences=request.waiting_sequences,
        kv_tokens_used=_below("kv_tokens_used", request.kv_tokens_used, MAX_KV_TOKENS),
        kv_tokens_total=_below("kv_tokens_total", request.kv_tokens_total, MAX_KV_TOKENS),
        foreign_sequences=request.foreign_sequences,
        active_experts=request.active_experts,
        batch_size=request.batch_size,
        step_seconds=seconds("step_time", request.step_time, 0.0, 3_600.0),
        step_active_experts=request.step_active_experts,
        state=choice("state", WorkerState, request.state or WorkerState.READY),
        capture=capture_status(request),
    )


def _below(field: str, value: int, limit: int) -> int:
    if value >= limit:
        raise InvalidArgumentError(field, f"below {limit}", value)
    return value
