import datetime

from eldr.v1 import activation_pb2 as _activation_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WorkerRole(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKER_ROLE_UNSPECIFIED: _ClassVar[WorkerRole]
    WORKER_ROLE_DECODE: _ClassVar[WorkerRole]
    WORKER_ROLE_PREFILL: _ClassVar[WorkerRole]

class WorkerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKER_STATE_UNSPECIFIED: _ClassVar[WorkerState]
    WORKER_STATE_JOINING: _ClassVar[WorkerState]
    WORKER_STATE_READY: _ClassVar[WorkerState]
    WORKER_STATE_DRAINING: _ClassVar[WorkerState]
    WORKER_STATE_GONE: _ClassVar[WorkerState]

class WorkerAvoidance(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKER_AVOIDANCE_UNSPECIFIED: _ClassVar[WorkerAvoidance]
    WORKER_AVOIDANCE_SLOW: _ClassVar[WorkerAvoidance]
    WORKER_AVOIDANCE_HELD_DOWN: _ClassVar[WorkerAvoidance]
    WORKER_AVOIDANCE_SUSPECT: _ClassVar[WorkerAvoidance]

class CaptureState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CAPTURE_STATE_UNSPECIFIED: _ClassVar[CaptureState]
    CAPTURE_STATE_PROBING: _ClassVar[CaptureState]
    CAPTURE_STATE_CAPTURING: _ClassVar[CaptureState]
    CAPTURE_STATE_STOPPED: _ClassVar[CaptureState]
WORKER_ROLE_UNSPECIFIED: WorkerRole
WORKER_ROLE_DECODE: WorkerRole
WORKER_ROLE_PREFILL: WorkerRole
WORKER_STATE_UNSPECIFIED: WorkerState
WORKER_STATE_JOINING: WorkerState
WORKER_STATE_READY: WorkerState
WORKER_STATE_DRAINING: WorkerState
WORKER_STATE_GONE: WorkerState
WORKER_AVOIDANCE_UNSPECIFIED: WorkerAvoidance
WORKER_AVOIDANCE_SLOW: WorkerAvoidance
WORKER_AVOIDANCE_HELD_DOWN: WorkerAvoidance
WORKER_AVOIDANCE_SUSPECT: WorkerAvoidance
CAPTURE_STATE_UNSPECIFIED: CaptureState
CAPTURE_STATE_PROBING: CaptureState
CAPTURE_STATE_CAPTURING: CaptureState
CAPTURE_STATE_STOPPED: CaptureState

class CaptureStatus(_message.Message):
    __slots__ = ("state", "reason", "known_tokens", "unknown_tokens", "software")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    KNOWN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    state: CaptureState
    reason: str
    known_tokens: int
    unknown_tokens: int
    software: str
    def __init__(self, state: _Optional[_Union[CaptureState, str]] = ..., reason: _Optional[str] = ..., known_tokens: _Optional[int] = ..., unknown_tokens: _Optional[int] = ..., software: _Optional[str] = ...) -> None: ...

class WorkerCapacity(_message.Message):
    __slots__ = ("sequences", "kv_tokens")
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_FIELD_NUMBER: _ClassVar[int]
    sequences: int
    kv_tokens: int
    def __init__(self, sequences: _Optional[int] = ..., kv_tokens: _Optional[int] = ...) -> None: ...

class RegisterWorkerRequest(_message.Message):
    __slots__ = ("worker_id", "model", "role", "url", "dp_rank", "group", "labels", "capacity", "geometry", "state", "time_to_live", "capture", "only_new", "incarnation")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    DP_RANK_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    GEOMETRY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_LIVE_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_FIELD_NUMBER: _ClassVar[int]
    ONLY_NEW_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    model: str
    role: WorkerRole
    url: str
    dp_rank: int
    group: str
    labels: _containers.ScalarMap[str, str]
    capacity: WorkerCapacity
    geometry: _activation_pb2.ModelGeometry
    state: WorkerState
    time_to_live: _duration_pb2.Duration
    capture: CaptureStatus
    only_new: bool
    incarnation: int
    def __init__(self, worker_id: _Optional[str] = ..., model: _Optional[str] = ..., role: _Optional[_Union[WorkerRole, str]] = ..., url: _Optional[str] = ..., dp_rank: _Optional[int] = ..., group: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., capacity: _Optional[_Union[WorkerCapacity, _Mapping]] = ..., geometry: _Optional[_Union[_activation_pb2.ModelGeometry, _Mapping]] = ..., state: _Optional[_Union[WorkerState, str]] = ..., time_to_live: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., capture: _Optional[_Union[CaptureStatus, _Mapping]] = ..., only_new: bool = ..., incarnation: _Optional[int] = ...) -> None: ...

class RegisterWorkerResponse(_message.Message):
    __slots__ = ("incarnation", "report_interval")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    REPORT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    report_interval: _duration_pb2.Duration
    def __init__(self, incarnation: _Optional[int] = ..., report_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class DrainWorkerRequest(_message.Message):
    __slots__ = ("model", "worker_id", "deadline", "remove")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    model: str
    worker_id: str
    deadline: _duration_pb2.Duration
    remove: bool
    def __init__(self, model: _Optional[str] = ..., worker_id: _Optional[str] = ..., deadline: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., remove: bool = ...) -> None: ...

class DrainWorkerResponse(_message.Message):
    __slots__ = ("booked_sequences",)
    BOOKED_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    booked_sequences: int
    def __init__(self, booked_sequences: _Optional[int] = ...) -> None: ...

class RemoveWorkerRequest(_message.Message):
    __slots__ = ("model", "worker_id", "incarnation")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    model: str
    worker_id: str
    incarnation: int
    def __init__(self, model: _Optional[str] = ..., worker_id: _Optional[str] = ..., incarnation: _Optional[int] = ...) -> None: ...

class RemoveWorkerResponse(_message.Message):
    __slots__ = ("ended_bookings",)
    ENDED_BOOKINGS_FIELD_NUMBER: _ClassVar[int]
    ended_bookings: int
    def __init__(self, ended_bookings: _Optional[int] = ...) -> None: ...

class HeldRequest(_message.Message):
    __slots__ = ("request_id", "attempt")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class ReportLoadRequest(_message.Message):
    __slots__ = ("model", "worker_id", "incarnation", "report_number", "running_sequences", "waiting_sequences", "kv_tokens_used", "kv_tokens_total", "held", "foreign_sequences", "active_experts", "batch_size", "step_time", "state", "step_active_experts", "capture")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    REPORT_NUMBER_FIELD_NUMBER: _ClassVar[int]
    RUNNING_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    WAITING_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_USED_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    FOREIGN_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    STEP_TIME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STEP_ACTIVE_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_FIELD_NUMBER: _ClassVar[int]
    model: str
    worker_id: str
    incarnation: int
    report_number: int
    running_sequences: int
    waiting_sequences: int
    kv_tokens_used: int
    kv_tokens_total: int
    held: _containers.RepeatedCompositeFieldContainer[HeldRequest]
    foreign_sequences: int
    active_experts: float
    batch_size: float
    step_time: _duration_pb2.Duration
    state: WorkerState
    step_active_experts: float
    capture: CaptureStatus
    def __init__(self, model: _Optional[str] = ..., worker_id: _Optional[str] = ..., incarnation: _Optional[int] = ..., report_number: _Optional[int] = ..., running_sequences: _Optional[int] = ..., waiting_sequences: _Optional[int] = ..., kv_tokens_used: _Optional[int] = ..., kv_tokens_total: _Optional[int] = ..., held: _Optional[_Iterable[_Union[HeldRequest, _Mapping]]] = ..., foreign_sequences: _Optional[int] = ..., active_experts: _Optional[float] = ..., batch_size: _Optional[float] = ..., step_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., state: _Optional[_Union[WorkerState, str]] = ..., step_active_experts: _Optional[float] = ..., capture: _Optional[_Union[CaptureStatus, _Mapping]] = ...) -> None: ...

class ReportLoadResponse(_message.Message):
    __slots__ = ("accepted", "report_interval", "unknown", "state", "drained")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REPORT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DRAINED_FIELD_NUMBER: _ClassVar[int]
    accepted: bool
    report_interval: _duration_pb2.Duration
    unknown: _containers.RepeatedCompositeFieldContainer[HeldRequest]
    state: WorkerState
    drained: bool
    def __init__(self, accepted: bool = ..., report_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., unknown: _Optional[_Iterable[_Union[HeldRequest, _Mapping]]] = ..., state: _Optional[_Union[WorkerState, str]] = ..., drained: bool = ...) -> None: ...

class ListWorkersRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class ListWorkersResponse(_message.Message):
    __slots__ = ("workers",)
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedCompositeFieldContainer[Worker]
    def __init__(self, workers: _Optional[_Iterable[_Union[Worker, _Mapping]]] = ...) -> None: ...

class WatchWorkersRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class WatchWorkersResponse(_message.Message):
    __slots__ = ("worker", "synchronized")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    SYNCHRONIZED_FIELD_NUMBER: _ClassVar[int]
    worker: Worker
    synchronized: bool
    def __init__(self, worker: _Optional[_Union[Worker, _Mapping]] = ..., synchronized: bool = ...) -> None: ...

class Worker(_message.Message):
    __slots__ = ("model", "worker_id", "role", "url", "dp_rank", "group", "labels", "capacity", "state", "incarnation", "booked_sequences", "foreign_sequences", "load", "slot", "report_time", "report_age", "stale", "active_experts", "batch_size", "step_time", "capture", "avoidance", "hold_down", "pace", "relief", "drain_remaining", "drained")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    DP_RANK_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    BOOKED_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    FOREIGN_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    REPORT_TIME_FIELD_NUMBER: _ClassVar[int]
    REPORT_AGE_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    STEP_TIME_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_FIELD_NUMBER: _ClassVar[int]
    AVOIDANCE_FIELD_NUMBER: _ClassVar[int]
    HOLD_DOWN_FIELD_NUMBER: _ClassVar[int]
    PACE_FIELD_NUMBER: _ClassVar[int]
    RELIEF_FIELD_NUMBER: _ClassVar[int]
    DRAIN_REMAINING_FIELD_NUMBER: _ClassVar[int]
    DRAINED_FIELD_NUMBER: _ClassVar[int]
    model: str
    worker_id: str
    role: WorkerRole
    url: str
    dp_rank: int
    group: str
    labels: _containers.ScalarMap[str, str]
    capacity: WorkerCapacity
    state: WorkerState
    incarnation: int
    booked_sequences: int
    foreign_sequences: int
    load: float
    slot: int
    report_time: _timestamp_pb2.Timestamp
    report_age: _duration_pb2.Duration
    stale: bool
    active_experts: float
    batch_size: float
    step_time: _duration_pb2.Duration
    capture: CaptureStatus
    avoidance: WorkerAvoidance
    hold_down: _duration_pb2.Duration
    pace: float
    relief: float
    drain_remaining: _duration_pb2.Duration
    drained: bool
    def __init__(self, model: _Optional[str] = ..., worker_id: _Optional[str] = ..., role: _Optional[_Union[WorkerRole, str]] = ..., url: _Optional[str] = ..., dp_rank: _Optional[int] = ..., group: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., capacity: _Optional[_Union[WorkerCapacity, _Mapping]] = ..., state: _Optional[_Union[WorkerState, str]] = ..., incarnation: _Optional[int] = ..., booked_sequences: _Optional[int] = ..., foreign_sequences: _Optional[int] = ..., load: _Optional[float] = ..., slot: _Optional[int] = ..., report_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., report_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., stale: bool = ..., active_experts: _Optional[float] = ..., batch_size: _Optional[float] = ..., step_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., capture: _Optional[_Union[CaptureStatus, _Mapping]] = ..., avoidance: _Optional[_Union[WorkerAvoidance, str]] = ..., hold_down: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., pace: _Optional[float] = ..., relief: _Optional[float] = ..., drain_remaining: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., drained: bool = ...) -> None: ...
