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

class RefitMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFIT_MODE_UNSPECIFIED: _ClassVar[RefitMode]
    REFIT_MODE_OFF: _ClassVar[RefitMode]
    REFIT_MODE_MANUAL: _ClassVar[RefitMode]
    REFIT_MODE_AUTO: _ClassVar[RefitMode]
REFIT_MODE_UNSPECIFIED: RefitMode
REFIT_MODE_OFF: RefitMode
REFIT_MODE_MANUAL: RefitMode
REFIT_MODE_AUTO: RefitMode

class RefitStatus(_message.Message):
    __slots__ = ("model", "mode", "window_signatures", "drift", "running", "last_outcome", "held")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    LAST_OUTCOME_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    model: str
    mode: RefitMode
    window_signatures: int
    drift: float
    running: bool
    last_outcome: str
    held: _duration_pb2.Duration
    def __init__(self, model: _Optional[str] = ..., mode: _Optional[_Union[RefitMode, str]] = ..., window_signatures: _Optional[int] = ..., drift: _Optional[float] = ..., running: bool = ..., last_outcome: _Optional[str] = ..., held: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class PartitionInfo(_message.Message):
    __slots__ = ("model", "version", "active", "geometry", "num_slots", "transform", "layers", "metadata", "create_time", "bindings")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    GEOMETRY_FIELD_NUMBER: _ClassVar[int]
    NUM_SLOTS_FIELD_NUMBER: _ClassVar[int]
    TRANSFORM_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    BINDINGS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    active: bool
    geometry: _activation_pb2.ModelGeometry
    num_slots: int
    transform: str
    layers: _containers.RepeatedScalarFieldContainer[int]
    metadata: _containers.ScalarMap[str, str]
    create_time: _timestamp_pb2.Timestamp
    bindings: _containers.RepeatedCompositeFieldContainer[SlotBinding]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., active: bool = ..., geometry: _Optional[_Union[_activation_pb2.ModelGeometry, _Mapping]] = ..., num_slots: _Optional[int] = ..., transform: _Optional[str] = ..., layers: _Optional[_Iterable[int]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., bindings: _Optional[_Iterable[_Union[SlotBinding, _Mapping]]] = ...) -> None: ...

class SlotBinding(_message.Message):
    __slots__ = ("slot", "worker_ids", "placements")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    WORKER_IDS_FIELD_NUMBER: _ClassVar[int]
    PLACEMENTS_FIELD_NUMBER: _ClassVar[int]
    slot: int
    worker_ids: _containers.RepeatedScalarFieldContainer[str]
    placements: int
    def __init__(self, slot: _Optional[int] = ..., worker_ids: _Optional[_Iterable[str]] = ..., placements: _Optional[int] = ...) -> None: ...

class FitPartitionRequest(_message.Message):
    __slots__ = ("model", "counts", "num_slots", "transform", "layers", "max_iter", "n_init", "random_state", "activate")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    NUM_SLOTS_FIELD_NUMBER: _ClassVar[int]
    TRANSFORM_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    MAX_ITER_FIELD_NUMBER: _ClassVar[int]
    N_INIT_FIELD_NUMBER: _ClassVar[int]
    RANDOM_STATE_FIELD_NUMBER: _ClassVar[int]
    ACTIVATE_FIELD_NUMBER: _ClassVar[int]
    model: str
    counts: _containers.RepeatedCompositeFieldContainer[_activation_pb2.ActivationCounts]
    num_slots: int
    transform: str
    layers: _containers.RepeatedScalarFieldContainer[int]
    max_iter: int
    n_init: int
    random_state: int
    activate: bool
    def __init__(self, model: _Optional[str] = ..., counts: _Optional[_Iterable[_Union[_activation_pb2.ActivationCounts, _Mapping]]] = ..., num_slots: _Optional[int] = ..., transform: _Optional[str] = ..., layers: _Optional[_Iterable[int]] = ..., max_iter: _Optional[int] = ..., n_init: _Optional[int] = ..., random_state: _Optional[int] = ..., activate: bool = ...) -> None: ...

class FitPartitionResponse(_message.Message):
    __slots__ = ("partition",)
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    partition: PartitionInfo
    def __init__(self, partition: _Optional[_Union[PartitionInfo, _Mapping]] = ...) -> None: ...

class ImportPartitionRequest(_message.Message):
    __slots__ = ("model", "data", "activate")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ACTIVATE_FIELD_NUMBER: _ClassVar[int]
    model: str
    data: bytes
    activate: bool
    def __init__(self, model: _Optional[str] = ..., data: _Optional[bytes] = ..., activate: bool = ...) -> None: ...

class ImportPartitionResponse(_message.Message):
    __slots__ = ("partition",)
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    partition: PartitionInfo
    def __init__(self, partition: _Optional[_Union[PartitionInfo, _Mapping]] = ...) -> None: ...

class ExportPartitionRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class ExportPartitionResponse(_message.Message):
    __slots__ = ("data", "partition")
    DATA_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    partition: PartitionInfo
    def __init__(self, data: _Optional[bytes] = ..., partition: _Optional[_Union[PartitionInfo, _Mapping]] = ...) -> None: ...

class ListPartitionsRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class ListPartitionsResponse(_message.Message):
    __slots__ = ("partitions", "refits")
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    REFITS_FIELD_NUMBER: _ClassVar[int]
    partitions: _containers.RepeatedCompositeFieldContainer[PartitionInfo]
    refits: _containers.RepeatedCompositeFieldContainer[RefitStatus]
    def __init__(self, partitions: _Optional[_Iterable[_Union[PartitionInfo, _Mapping]]] = ..., refits: _Optional[_Iterable[_Union[RefitStatus, _Mapping]]] = ...) -> None: ...

class ActivatePartitionRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class ActivatePartitionResponse(_message.Message):
    __slots__ = ("partition",)
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    partition: PartitionInfo
    def __init__(self, partition: _Optional[_Union[PartitionInfo, _Mapping]] = ...) -> None: ...

class RollbackPartitionRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class RollbackPartitionResponse(_message.Message):
    __slots__ = ("partition",)
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    partition: PartitionInfo
    def __init__(self, partition: _Optional[_Union[PartitionInfo, _Mapping]] = ...) -> None: ...

class SetRefitRequest(_message.Message):
    __slots__ = ("model", "mode")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    model: str
    mode: RefitMode
    def __init__(self, model: _Optional[str] = ..., mode: _Optional[_Union[RefitMode, str]] = ...) -> None: ...

class SetRefitResponse(_message.Message):
    __slots__ = ("refit",)
    REFIT_FIELD_NUMBER: _ClassVar[int]
    refit: RefitStatus
    def __init__(self, refit: _Optional[_Union[RefitStatus, _Mapping]] = ...) -> None: ...
