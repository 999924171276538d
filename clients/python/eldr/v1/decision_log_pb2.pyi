import datetime

from eldr.v1 import activation_pb2 as _activation_pb2
from eldr.v1 import fleet_pb2 as _fleet_pb2
from eldr.v1 import router_pb2 as _router_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LogEndKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOG_END_KIND_UNSPECIFIED: _ClassVar[LogEndKind]
    LOG_END_KIND_RELEASED: _ClassVar[LogEndKind]
    LOG_END_KIND_EXPIRED: _ClassVar[LogEndKind]
    LOG_END_KIND_SUPERSEDED: _ClassVar[LogEndKind]
    LOG_END_KIND_REPORTED_GONE: _ClassVar[LogEndKind]
    LOG_END_KIND_WORKER_GONE: _ClassVar[LogEndKind]
    LOG_END_KIND_UNANSWERED: _ClassVar[LogEndKind]
    LOG_END_KIND_DRAINED: _ClassVar[LogEndKind]
LOG_END_KIND_UNSPECIFIED: LogEndKind
LOG_END_KIND_RELEASED: LogEndKind
LOG_END_KIND_EXPIRED: LogEndKind
LOG_END_KIND_SUPERSEDED: LogEndKind
LOG_END_KIND_REPORTED_GONE: LogEndKind
LOG_END_KIND_WORKER_GONE: LogEndKind
LOG_END_KIND_UNANSWERED: LogEndKind
LOG_END_KIND_DRAINED: LogEndKind

class LogRecord(_message.Message):
    __slots__ = ("model", "seconds", "header", "appeared", "worker", "policy_state", "booking", "snapshot_end", "placement", "end", "running", "report", "move", "partition", "policy", "forgotten", "completed", "standing")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    APPEARED_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    POLICY_STATE_FIELD_NUMBER: _ClassVar[int]
    BOOKING_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_END_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    STANDING_FIELD_NUMBER: _ClassVar[int]
    model: int
    seconds: float
    header: LogHeader
    appeared: LogModel
    worker: LogWorker
    policy_state: LogArray
    booking: LogBooking
    snapshot_end: LogSnapshotEnd
    placement: LogPlacement
    end: LogEnd
    running: LogRunning
    report: LogReport
    move: LogMove
    partition: LogPartition
    policy: LogPolicy
    forgotten: LogForgotten
    completed: LogCompleted
    standing: LogStanding
    def __init__(self, model: _Optional[int] = ..., seconds: _Optional[float] = ..., header: _Optional[_Union[LogHeader, _Mapping]] = ..., appeared: _Optional[_Union[LogModel, _Mapping]] = ..., worker: _Optional[_Union[LogWorker, _Mapping]] = ..., policy_state: _Optional[_Union[LogArray, _Mapping]] = ..., booking: _Optional[_Union[LogBooking, _Mapping]] = ..., snapshot_end: _Optional[_Union[LogSnapshotEnd, _Mapping]] = ..., placement: _Optional[_Union[LogPlacement, _Mapping]] = ..., end: _Optional[_Union[LogEnd, _Mapping]] = ..., running: _Optional[_Union[LogRunning, _Mapping]] = ..., report: _Optional[_Union[LogReport, _Mapping]] = ..., move: _Optional[_Union[LogMove, _Mapping]] = ..., partition: _Optional[_Union[LogPartition, _Mapping]] = ..., policy: _Optional[_Union[LogPolicy, _Mapping]] = ..., forgotten: _Optional[_Union[LogForgotten, _Mapping]] = ..., completed: _Optional[_Union[LogCompleted, _Mapping]] = ..., standing: _Optional[_Union[LogStanding, _Mapping]] = ...) -> None: ...

class LogHeader(_message.Message):
    __slots__ = ("format", "run", "file", "lost", "begun", "version", "report_limit")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REPORT_LIMIT_FIELD_NUMBER: _ClassVar[int]
    format: int
    run: str
    file: int
    lost: int
    begun: _timestamp_pb2.Timestamp
    version: str
    report_limit: float
    def __init__(self, format: _Optional[int] = ..., run: _Optional[str] = ..., file: _Optional[int] = ..., lost: _Optional[int] = ..., begun: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., version: _Optional[str] = ..., report_limit: _Optional[float] = ...) -> None: ...

class LogModel(_message.Message):
    __slots__ = ("name", "number", "geometry", "policy", "decisions", "partition", "slots")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    GEOMETRY_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    number: int
    geometry: _activation_pb2.ModelGeometry
    policy: LogPolicy
    decisions: int
    partition: bytes
    slots: _containers.RepeatedCompositeFieldContainer[LogSlot]
    def __init__(self, name: _Optional[str] = ..., number: _Optional[int] = ..., geometry: _Optional[_Union[_activation_pb2.ModelGeometry, _Mapping]] = ..., policy: _Optional[_Union[LogPolicy, _Mapping]] = ..., decisions: _Optional[int] = ..., partition: _Optional[bytes] = ..., slots: _Optional[_Iterable[_Union[LogSlot, _Mapping]]] = ...) -> None: ...

class LogSlot(_message.Message):
    __slots__ = ("rows", "placements")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    PLACEMENTS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedScalarFieldContainer[int]
    placements: int
    def __init__(self, rows: _Optional[_Iterable[int]] = ..., placements: _Optional[int] = ...) -> None: ...

class LogPolicy(_message.Message):
    __slots__ = ("name", "parameters", "learned")
    class ParametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    LEARNED_FIELD_NUMBER: _ClassVar[int]
    name: str
    parameters: _containers.ScalarMap[str, str]
    learned: _containers.RepeatedCompositeFieldContainer[LogArray]
    def __init__(self, name: _Optional[str] = ..., parameters: _Optional[_Mapping[str, str]] = ..., learned: _Optional[_Iterable[_Union[LogArray, _Mapping]]] = ...) -> None: ...

class LogWorker(_message.Message):
    __slots__ = ("row", "worker_id", "role", "group", "labels", "capacity_sequences", "capacity_kv_tokens", "state", "incarnation", "numbers", "same_life")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class NumbersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ROW_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_KV_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    SAME_LIFE_FIELD_NUMBER: _ClassVar[int]
    row: int
    worker_id: str
    role: _fleet_pb2.WorkerRole
    group: str
    labels: _containers.ScalarMap[str, str]
    capacity_sequences: int
    capacity_kv_tokens: int
    state: _fleet_pb2.WorkerState
    incarnation: int
    numbers: _containers.ScalarMap[str, float]
    same_life: bool
    def __init__(self, row: _Optional[int] = ..., worker_id: _Optional[str] = ..., role: _Optional[_Union[_fleet_pb2.WorkerRole, str]] = ..., group: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., capacity_sequences: _Optional[int] = ..., capacity_kv_tokens: _Optional[int] = ..., state: _Optional[_Union[_fleet_pb2.WorkerState, str]] = ..., incarnation: _Optional[int] = ..., numbers: _Optional[_Mapping[str, float]] = ..., same_life: bool = ...) -> None: ...

class LogArray(_message.Message):
    __slots__ = ("name", "dtype", "shape", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class LogCounts(_message.Message):
    __slots__ = ("num_layers", "num_experts", "top_k", "planes")
    NUM_LAYERS_FIELD_NUMBER: _ClassVar[int]
    NUM_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    PLANES_FIELD_NUMBER: _ClassVar[int]
    num_layers: int
    num_experts: int
    top_k: int
    planes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, num_layers: _Optional[int] = ..., num_experts: _Optional[int] = ..., top_k: _Optional[int] = ..., planes: _Optional[_Iterable[bytes]] = ...) -> None: ...

class LogBooking(_message.Message):
    __slots__ = ("request_id", "attempt", "row", "generation", "num_sequences", "prompt_tokens", "expected_output_tokens", "slot", "counts", "coverage", "running", "awaits_signature")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    NUM_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    AWAITS_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    row: int
    generation: int
    num_sequences: int
    prompt_tokens: int
    expected_output_tokens: int
    slot: int
    counts: LogCounts
    coverage: float
    running: bool
    awaits_signature: bool
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., row: _Optional[int] = ..., generation: _Optional[int] = ..., num_sequences: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., expected_output_tokens: _Optional[int] = ..., slot: _Optional[int] = ..., counts: _Optional[_Union[LogCounts, _Mapping]] = ..., coverage: _Optional[float] = ..., running: bool = ..., awaits_signature: bool = ...) -> None: ...

class LogSnapshotEnd(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LogPlacement(_message.Message):
    __slots__ = ("request_id", "attempt", "num_sequences", "prompt_tokens", "expected_output_tokens", "counts", "coverage", "group", "earlier", "candidate_workers", "exclude_workers", "worker_selector", "pinned_worker", "labels", "row", "reason", "awaits_signature", "no_geometry", "other_groups", "cached_tokens")
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
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NUM_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    EARLIER_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_WORKERS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_WORKERS_FIELD_NUMBER: _ClassVar[int]
    WORKER_SELECTOR_FIELD_NUMBER: _ClassVar[int]
    PINNED_WORKER_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    AWAITS_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    NO_GEOMETRY_FIELD_NUMBER: _ClassVar[int]
    OTHER_GROUPS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    num_sequences: int
    prompt_tokens: int
    expected_output_tokens: int
    counts: LogCounts
    coverage: float
    group: str
    earlier: str
    candidate_workers: _containers.RepeatedScalarFieldContainer[str]
    exclude_workers: _containers.RepeatedScalarFieldContainer[str]
    worker_selector: _containers.ScalarMap[str, str]
    pinned_worker: str
    labels: _containers.ScalarMap[str, str]
    row: int
    reason: _router_pb2.PlacementReason
    awaits_signature: bool
    no_geometry: bool
    other_groups: bool
    cached_tokens: _containers.ScalarMap[str, int]
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., num_sequences: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., expected_output_tokens: _Optional[int] = ..., counts: _Optional[_Union[LogCounts, _Mapping]] = ..., coverage: _Optional[float] = ..., group: _Optional[str] = ..., earlier: _Optional[str] = ..., candidate_workers: _Optional[_Iterable[str]] = ..., exclude_workers: _Optional[_Iterable[str]] = ..., worker_selector: _Optional[_Mapping[str, str]] = ..., pinned_worker: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., row: _Optional[int] = ..., reason: _Optional[_Union[_router_pb2.PlacementReason, str]] = ..., awaits_signature: bool = ..., no_geometry: bool = ..., other_groups: bool = ..., cached_tokens: _Optional[_Mapping[str, int]] = ...) -> None: ...

class LogEnd(_message.Message):
    __slots__ = ("request_id", "kind", "output_tokens", "decode_seconds", "decode_counts")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DECODE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DECODE_COUNTS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    kind: LogEndKind
    output_tokens: int
    decode_seconds: float
    decode_counts: LogCounts
    def __init__(self, request_id: _Optional[str] = ..., kind: _Optional[_Union[LogEndKind, str]] = ..., output_tokens: _Optional[int] = ..., decode_seconds: _Optional[float] = ..., decode_counts: _Optional[_Union[LogCounts, _Mapping]] = ...) -> None: ...

class LogCompleted(_message.Message):
    __slots__ = ("request_id", "counts", "coverage")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    counts: LogCounts
    coverage: float
    def __init__(self, request_id: _Optional[str] = ..., counts: _Optional[_Union[LogCounts, _Mapping]] = ..., coverage: _Optional[float] = ...) -> None: ...

class LogRunning(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class LogReport(_message.Message):
    __slots__ = ("row", "incarnation", "number", "running_sequences", "waiting_sequences", "kv_tokens_used", "kv_tokens_total", "foreign_sequences", "active_experts", "batch_size", "step_seconds", "step_active_experts")
    ROW_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    RUNNING_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    WAITING_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_USED_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    FOREIGN_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STEP_ACTIVE_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    row: int
    incarnation: int
    number: int
    running_sequences: int
    waiting_sequences: int
    kv_tokens_used: int
    kv_tokens_total: int
    foreign_sequences: int
    active_experts: float
    batch_size: float
    step_seconds: float
    step_active_experts: float
    def __init__(self, row: _Optional[int] = ..., incarnation: _Optional[int] = ..., number: _Optional[int] = ..., running_sequences: _Optional[int] = ..., waiting_sequences: _Optional[int] = ..., kv_tokens_used: _Optional[int] = ..., kv_tokens_total: _Optional[int] = ..., foreign_sequences: _Optional[int] = ..., active_experts: _Optional[float] = ..., batch_size: _Optional[float] = ..., step_seconds: _Optional[float] = ..., step_active_experts: _Optional[float] = ...) -> None: ...

class LogMove(_message.Message):
    __slots__ = ("row", "state")
    ROW_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    row: int
    state: _fleet_pb2.WorkerState
    def __init__(self, row: _Optional[int] = ..., state: _Optional[_Union[_fleet_pb2.WorkerState, str]] = ...) -> None: ...

class LogStanding(_message.Message):
    __slots__ = ("row", "avoidance", "relief")
    ROW_FIELD_NUMBER: _ClassVar[int]
    AVOIDANCE_FIELD_NUMBER: _ClassVar[int]
    RELIEF_FIELD_NUMBER: _ClassVar[int]
    row: int
    avoidance: _fleet_pb2.WorkerAvoidance
    relief: float
    def __init__(self, row: _Optional[int] = ..., avoidance: _Optional[_Union[_fleet_pb2.WorkerAvoidance, str]] = ..., relief: _Optional[float] = ...) -> None: ...

class LogPartition(_message.Message):
    __slots__ = ("data", "wishes")
    class WishesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    DATA_FIELD_NUMBER: _ClassVar[int]
    WISHES_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    wishes: _containers.ScalarMap[str, int]
    def __init__(self, data: _Optional[bytes] = ..., wishes: _Optional[_Mapping[str, int]] = ...) -> None: ...

class LogForgotten(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
