import datetime

from eldr.v1 import activation_pb2 as _activation_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PlacementReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PLACEMENT_REASON_UNSPECIFIED: _ClassVar[PlacementReason]
    PLACEMENT_REASON_POLICY: _ClassVar[PlacementReason]
    PLACEMENT_REASON_LOCALITY_BAND: _ClassVar[PlacementReason]
    PLACEMENT_REASON_LEAST_LOADED_NO_SIGNATURE: _ClassVar[PlacementReason]
    PLACEMENT_REASON_LEAST_LOADED_LOW_COVERAGE: _ClassVar[PlacementReason]
    PLACEMENT_REASON_LEAST_LOADED_NO_PARTITION: _ClassVar[PlacementReason]
    PLACEMENT_REASON_CLIENT_FALLBACK: _ClassVar[PlacementReason]
    PLACEMENT_REASON_PINNED: _ClassVar[PlacementReason]
    PLACEMENT_REASON_LEAST_LOADED_POLICY_ERROR: _ClassVar[PlacementReason]

class SignatureSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIGNATURE_SOURCE_UNSPECIFIED: _ClassVar[SignatureSource]
    SIGNATURE_SOURCE_CALLER: _ClassVar[SignatureSource]
    SIGNATURE_SOURCE_REGISTERED: _ClassVar[SignatureSource]
    SIGNATURE_SOURCE_SESSION: _ClassVar[SignatureSource]
    SIGNATURE_SOURCE_PREFIX: _ClassVar[SignatureSource]
    SIGNATURE_SOURCE_TENANT: _ClassVar[SignatureSource]

class ReleaseOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RELEASE_OUTCOME_UNSPECIFIED: _ClassVar[ReleaseOutcome]
    RELEASE_OUTCOME_COMPLETED: _ClassVar[ReleaseOutcome]
    RELEASE_OUTCOME_FAILED: _ClassVar[ReleaseOutcome]
    RELEASE_OUTCOME_CANCELLED: _ClassVar[ReleaseOutcome]

class ReleaseResult(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RELEASE_RESULT_UNSPECIFIED: _ClassVar[ReleaseResult]
    RELEASE_RESULT_RELEASED: _ClassVar[ReleaseResult]
    RELEASE_RESULT_ALREADY_RELEASED: _ClassVar[ReleaseResult]
    RELEASE_RESULT_UNKNOWN: _ClassVar[ReleaseResult]

class BookingState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BOOKING_STATE_UNSPECIFIED: _ClassVar[BookingState]
    BOOKING_STATE_LIVE: _ClassVar[BookingState]
    BOOKING_STATE_ENDED: _ClassVar[BookingState]
PLACEMENT_REASON_UNSPECIFIED: PlacementReason
PLACEMENT_REASON_POLICY: PlacementReason
PLACEMENT_REASON_LOCALITY_BAND: PlacementReason
PLACEMENT_REASON_LEAST_LOADED_NO_SIGNATURE: PlacementReason
PLACEMENT_REASON_LEAST_LOADED_LOW_COVERAGE: PlacementReason
PLACEMENT_REASON_LEAST_LOADED_NO_PARTITION: PlacementReason
PLACEMENT_REASON_CLIENT_FALLBACK: PlacementReason
PLACEMENT_REASON_PINNED: PlacementReason
PLACEMENT_REASON_LEAST_LOADED_POLICY_ERROR: PlacementReason
SIGNATURE_SOURCE_UNSPECIFIED: SignatureSource
SIGNATURE_SOURCE_CALLER: SignatureSource
SIGNATURE_SOURCE_REGISTERED: SignatureSource
SIGNATURE_SOURCE_SESSION: SignatureSource
SIGNATURE_SOURCE_PREFIX: SignatureSource
SIGNATURE_SOURCE_TENANT: SignatureSource
RELEASE_OUTCOME_UNSPECIFIED: ReleaseOutcome
RELEASE_OUTCOME_COMPLETED: ReleaseOutcome
RELEASE_OUTCOME_FAILED: ReleaseOutcome
RELEASE_OUTCOME_CANCELLED: ReleaseOutcome
RELEASE_RESULT_UNSPECIFIED: ReleaseResult
RELEASE_RESULT_RELEASED: ReleaseResult
RELEASE_RESULT_ALREADY_RELEASED: ReleaseResult
RELEASE_RESULT_UNKNOWN: ReleaseResult
BOOKING_STATE_UNSPECIFIED: BookingState
BOOKING_STATE_LIVE: BookingState
BOOKING_STATE_ENDED: BookingState

class RegisterSignatureRequest(_message.Message):
    __slots__ = ("model", "request_id", "epoch", "sequence", "last", "total_chunks", "counts", "prefill_worker", "prompt_tokens")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    TOTAL_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_WORKER_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    model: str
    request_id: str
    epoch: int
    sequence: int
    last: bool
    total_chunks: int
    counts: _activation_pb2.ActivationCounts
    prefill_worker: str
    prompt_tokens: int
    def __init__(self, model: _Optional[str] = ..., request_id: _Optional[str] = ..., epoch: _Optional[int] = ..., sequence: _Optional[int] = ..., last: bool = ..., total_chunks: _Optional[int] = ..., counts: _Optional[_Union[_activation_pb2.ActivationCounts, _Mapping]] = ..., prefill_worker: _Optional[str] = ..., prompt_tokens: _Optional[int] = ...) -> None: ...

class RegisterSignatureResponse(_message.Message):
    __slots__ = ("tokens_held", "complete")
    TOKENS_HELD_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    tokens_held: int
    complete: bool
    def __init__(self, tokens_held: _Optional[int] = ..., complete: bool = ...) -> None: ...

class StreamSignaturesRequest(_message.Message):
    __slots__ = ("model", "request_id", "epoch", "sequence", "last", "total_chunks", "counts", "prefill_worker", "prompt_tokens", "route", "trace_context")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    TOTAL_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_WORKER_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    TRACE_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    model: str
    request_id: str
    epoch: int
    sequence: int
    last: bool
    total_chunks: int
    counts: _activation_pb2.ActivationCounts
    prefill_worker: str
    prompt_tokens: int
    route: RouteRequest
    trace_context: TraceContext
    def __init__(self, model: _Optional[str] = ..., request_id: _Optional[str] = ..., epoch: _Optional[int] = ..., sequence: _Optional[int] = ..., last: bool = ..., total_chunks: _Optional[int] = ..., counts: _Optional[_Union[_activation_pb2.ActivationCounts, _Mapping]] = ..., prefill_worker: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., route: _Optional[_Union[RouteRequest, _Mapping]] = ..., trace_context: _Optional[_Union[TraceContext, _Mapping]] = ...) -> None: ...

class TraceContext(_message.Message):
    __slots__ = ("traceparent", "tracestate")
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    traceparent: str
    tracestate: str
    def __init__(self, traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ...) -> None: ...

class StreamSignaturesResponse(_message.Message):
    __slots__ = ("model", "request_id", "epoch", "sequence", "acknowledgement", "placement", "status")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGEMENT_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    model: str
    request_id: str
    epoch: int
    sequence: int
    acknowledgement: RegisterSignatureResponse
    placement: Placement
    status: _status_pb2.Status
    def __init__(self, model: _Optional[str] = ..., request_id: _Optional[str] = ..., epoch: _Optional[int] = ..., sequence: _Optional[int] = ..., acknowledgement: _Optional[_Union[RegisterSignatureResponse, _Mapping]] = ..., placement: _Optional[_Union[Placement, _Mapping]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class RouteRequest(_message.Message):
    __slots__ = ("model", "request_id", "attempt", "counts", "wait_for_signature", "num_sequences", "prompt_tokens", "expected_output_tokens", "prefill_worker", "candidate_workers", "exclude_workers", "worker_selector", "pinned_worker", "dry_run", "explain", "lease_ttl", "labels", "max_wait", "priority", "session", "prefix_hashes", "movable", "cached_tokens", "prefix_block_tokens")
    class WorkerSelectorEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class CachedTokensEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    NUM_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_WORKER_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_WORKERS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_WORKERS_FIELD_NUMBER: _ClassVar[int]
    WORKER_SELECTOR_FIELD_NUMBER: _ClassVar[int]
    PINNED_WORKER_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    LEASE_TTL_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    PREFIX_HASHES_FIELD_NUMBER: _ClassVar[int]
    MOVABLE_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_BLOCK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    model: str
    request_id: str
    attempt: int
    counts: _activation_pb2.ActivationCounts
    wait_for_signature: _duration_pb2.Duration
    num_sequences: int
    prompt_tokens: int
    expected_output_tokens: int
    prefill_worker: str
    candidate_workers: _containers.RepeatedScalarFieldContainer[str]
    exclude_workers: _containers.RepeatedScalarFieldContainer[str]
    worker_selector: _containers.ScalarMap[str, str]
    pinned_worker: str
    dry_run: bool
    explain: bool
    lease_ttl: _duration_pb2.Duration
    labels: _containers.ScalarMap[str, str]
    max_wait: _duration_pb2.Duration
    priority: int
    session: str
    prefix_hashes: _containers.RepeatedScalarFieldContainer[int]
    movable: bool
    cached_tokens: _containers.ScalarMap[str, int]
    prefix_block_tokens: int
    def __init__(self, model: _Optional[str] = ..., request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., counts: _Optional[_Union[_activation_pb2.ActivationCounts, _Mapping]] = ..., wait_for_signature: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., num_sequences: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., expected_output_tokens: _Optional[int] = ..., prefill_worker: _Optional[str] = ..., candidate_workers: _Optional[_Iterable[str]] = ..., exclude_workers: _Optional[_Iterable[str]] = ..., worker_selector: _Optional[_Mapping[str, str]] = ..., pinned_worker: _Optional[str] = ..., dry_run: bool = ..., explain: bool = ..., lease_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., max_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., priority: _Optional[int] = ..., session: _Optional[str] = ..., prefix_hashes: _Optional[_Iterable[int]] = ..., movable: bool = ..., cached_tokens: _Optional[_Mapping[str, int]] = ..., prefix_block_tokens: _Optional[int] = ...) -> None: ...

class RouteResponse(_message.Message):
    __slots__ = ("placement",)
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    placement: Placement
    def __init__(self, placement: _Optional[_Union[Placement, _Mapping]] = ...) -> None: ...

class RouteStreamRequest(_message.Message):
    __slots__ = ("model", "request_id", "attempt", "counts", "wait_for_signature", "num_sequences", "prompt_tokens", "expected_output_tokens", "prefill_worker", "candidate_workers", "exclude_workers", "worker_selector", "pinned_worker", "dry_run", "explain", "lease_ttl", "labels", "max_wait", "priority", "session", "prefix_hashes", "movable", "cached_tokens", "prefix_block_tokens", "trace_context")
    class WorkerSelectorEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class CachedTokensEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    NUM_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_WORKER_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_WORKERS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_WORKERS_FIELD_NUMBER: _ClassVar[int]
    WORKER_SELECTOR_FIELD_NUMBER: _ClassVar[int]
    PINNED_WORKER_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    LEASE_TTL_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    PREFIX_HASHES_FIELD_NUMBER: _ClassVar[int]
    MOVABLE_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_BLOCK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TRACE_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    model: str
    request_id: str
    attempt: int
    counts: _activation_pb2.ActivationCounts
    wait_for_signature: _duration_pb2.Duration
    num_sequences: int
    prompt_tokens: int
    expected_output_tokens: int
    prefill_worker: str
    candidate_workers: _containers.RepeatedScalarFieldContainer[str]
    exclude_workers: _containers.RepeatedScalarFieldContainer[str]
    worker_selector: _containers.ScalarMap[str, str]
    pinned_worker: str
    dry_run: bool
    explain: bool
    lease_ttl: _duration_pb2.Duration
    labels: _containers.ScalarMap[str, str]
    max_wait: _duration_pb2.Duration
    priority: int
    session: str
    prefix_hashes: _containers.RepeatedScalarFieldContainer[int]
    movable: bool
    cached_tokens: _containers.ScalarMap[str, int]
    prefix_block_tokens: int
    trace_context: TraceContext
    def __init__(self, model: _Optional[str] = ..., request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., counts: _Optional[_Union[_activation_pb2.ActivationCounts, _Mapping]] = ..., wait_for_signature: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., num_sequences: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., expected_output_tokens: _Optional[int] = ..., prefill_worker: _Optional[str] = ..., candidate_workers: _Optional[_Iterable[str]] = ..., exclude_workers: _Optional[_Iterable[str]] = ..., worker_selector: _Optional[_Mapping[str, str]] = ..., pinned_worker: _Optional[str] = ..., dry_run: bool = ..., explain: bool = ..., lease_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., max_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., priority: _Optional[int] = ..., session: _Optional[str] = ..., prefix_hashes: _Optional[_Iterable[int]] = ..., movable: bool = ..., cached_tokens: _Optional[_Mapping[str, int]] = ..., prefix_block_tokens: _Optional[int] = ..., trace_context: _Optional[_Union[TraceContext, _Mapping]] = ...) -> None: ...

class RouteStreamResponse(_message.Message):
    __slots__ = ("model", "request_id", "attempt", "placement", "status")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    model: str
    request_id: str
    attempt: int
    placement: Placement
    status: _status_pb2.Status
    def __init__(self, model: _Optional[str] = ..., request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., placement: _Optional[_Union[Placement, _Mapping]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class WorkerTarget(_message.Message):
    __slots__ = ("worker_id", "url", "dp_rank")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    DP_RANK_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    url: str
    dp_rank: int
    def __init__(self, worker_id: _Optional[str] = ..., url: _Optional[str] = ..., dp_rank: _Optional[int] = ...) -> None: ...

class Placement(_message.Message):
    __slots__ = ("worker_id", "url", "dp_rank", "alternates", "reason", "repeated", "stale", "policy", "partition_version", "lease_id", "lease_expire_time", "lease_remaining", "similarity", "coverage", "scores", "early", "unsaved", "rule", "signature_source")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    DP_RANK_FIELD_NUMBER: _ClassVar[int]
    ALTERNATES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REPEATED_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    PARTITION_VERSION_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    LEASE_REMAINING_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    EARLY_FIELD_NUMBER: _ClassVar[int]
    UNSAVED_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_SOURCE_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    url: str
    dp_rank: int
    alternates: _containers.RepeatedCompositeFieldContainer[WorkerTarget]
    reason: PlacementReason
    repeated: bool
    stale: bool
    policy: str
    partition_version: int
    lease_id: str
    lease_expire_time: _timestamp_pb2.Timestamp
    lease_remaining: _duration_pb2.Duration
    similarity: float
    coverage: float
    scores: _containers.RepeatedCompositeFieldContainer[WorkerScore]
    early: bool
    unsaved: bool
    rule: str
    signature_source: SignatureSource
    def __init__(self, worker_id: _Optional[str] = ..., url: _Optional[str] = ..., dp_rank: _Optional[int] = ..., alternates: _Optional[_Iterable[_Union[WorkerTarget, _Mapping]]] = ..., reason: _Optional[_Union[PlacementReason, str]] = ..., repeated: bool = ..., stale: bool = ..., policy: _Optional[str] = ..., partition_version: _Optional[int] = ..., lease_id: _Optional[str] = ..., lease_expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., lease_remaining: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., similarity: _Optional[float] = ..., coverage: _Optional[float] = ..., scores: _Optional[_Iterable[_Union[WorkerScore, _Mapping]]] = ..., early: bool = ..., unsaved: bool = ..., rule: _Optional[str] = ..., signature_source: _Optional[_Union[SignatureSource, str]] = ...) -> None: ...

class WorkerScore(_message.Message):
    __slots__ = ("worker_id", "eligible", "ineligible_reason", "similarity", "load", "in_band", "predicted_active_experts", "cost", "report_age", "stale", "cached_tokens")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    ELIGIBLE_FIELD_NUMBER: _ClassVar[int]
    INELIGIBLE_REASON_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    IN_BAND_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_ACTIVE_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    REPORT_AGE_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    eligible: bool
    ineligible_reason: str
    similarity: float
    load: float
    in_band: bool
    predicted_active_experts: float
    cost: float
    report_age: _duration_pb2.Duration
    stale: bool
    cached_tokens: int
    def __init__(self, worker_id: _Optional[str] = ..., eligible: bool = ..., ineligible_reason: _Optional[str] = ..., similarity: _Optional[float] = ..., load: _Optional[float] = ..., in_band: bool = ..., predicted_active_experts: _Optional[float] = ..., cost: _Optional[float] = ..., report_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., stale: bool = ..., cached_tokens: _Optional[int] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("model", "request_id", "attempt", "lease_id", "outcome", "output_tokens", "decode_duration", "decode_counts")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DECODE_DURATION_FIELD_NUMBER: _ClassVar[int]
    DECODE_COUNTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    request_id: str
    attempt: int
    lease_id: str
    outcome: ReleaseOutcome
    output_tokens: int
    decode_duration: _duration_pb2.Duration
    decode_counts: _activation_pb2.ActivationCounts
    def __init__(self, model: _Optional[str] = ..., request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., lease_id: _Optional[str] = ..., outcome: _Optional[_Union[ReleaseOutcome, str]] = ..., output_tokens: _Optional[int] = ..., decode_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., decode_counts: _Optional[_Union[_activation_pb2.ActivationCounts, _Mapping]] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: ReleaseResult
    def __init__(self, result: _Optional[_Union[ReleaseResult, str]] = ...) -> None: ...

class LeaseReference(_message.Message):
    __slots__ = ("request_id", "attempt", "lease_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    lease_id: str
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., lease_id: _Optional[str] = ...) -> None: ...

class RenewLeasesRequest(_message.Message):
    __slots__ = ("model", "leases")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    model: str
    leases: _containers.RepeatedCompositeFieldContainer[LeaseReference]
    def __init__(self, model: _Optional[str] = ..., leases: _Optional[_Iterable[_Union[LeaseReference, _Mapping]]] = ...) -> None: ...

class RenewLeasesResponse(_message.Message):
    __slots__ = ("unknown",)
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    unknown: _containers.RepeatedCompositeFieldContainer[LeaseReference]
    def __init__(self, unknown: _Optional[_Iterable[_Union[LeaseReference, _Mapping]]] = ...) -> None: ...

class WatchMovesRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class WatchMovesResponse(_message.Message):
    __slots__ = ("model", "request_id", "attempt", "worker_id", "target", "gain")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    GAIN_FIELD_NUMBER: _ClassVar[int]
    model: str
    request_id: str
    attempt: int
    worker_id: str
    target: WorkerTarget
    gain: _duration_pb2.Duration
    def __init__(self, model: _Optional[str] = ..., request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., worker_id: _Optional[str] = ..., target: _Optional[_Union[WorkerTarget, _Mapping]] = ..., gain: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("model", "request_id", "attempt")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    model: str
    request_id: str
    attempt: int
    def __init__(self, model: _Optional[str] = ..., request_id: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("model", "request_id", "attempt", "placement", "age", "policy_parameters", "known_tokens", "prompt_tokens", "state", "ended", "running", "decisions_kept")
    class PolicyParametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    POLICY_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_KEPT_FIELD_NUMBER: _ClassVar[int]
    model: str
    request_id: str
    attempt: int
    placement: Placement
    age: _duration_pb2.Duration
    policy_parameters: _containers.ScalarMap[str, str]
    known_tokens: int
    prompt_tokens: int
    state: BookingState
    ended: str
    running: bool
    decisions_kept: int
    def __init__(self, model: _Optional[str] = ..., request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., placement: _Optional[_Union[Placement, _Mapping]] = ..., age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., policy_parameters: _Optional[_Mapping[str, str]] = ..., known_tokens: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., state: _Optional[_Union[BookingState, str]] = ..., ended: _Optional[str] = ..., running: bool = ..., decisions_kept: _Optional[int] = ...) -> None: ...
