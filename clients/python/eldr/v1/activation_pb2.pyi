from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelGeometry(_message.Message):
    __slots__ = ("num_layers", "num_experts", "top_k")
    NUM_LAYERS_FIELD_NUMBER: _ClassVar[int]
    NUM_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    num_layers: int
    num_experts: int
    top_k: int
    def __init__(self, num_layers: _Optional[int] = ..., num_experts: _Optional[int] = ..., top_k: _Optional[int] = ...) -> None: ...

class ActivationCounts(_message.Message):
    __slots__ = ("num_layers", "layer_offset", "layers_present", "num_experts", "top_k", "num_tokens", "unknown_tokens", "dense_u16", "dense_u32", "sparse")
    NUM_LAYERS_FIELD_NUMBER: _ClassVar[int]
    LAYER_OFFSET_FIELD_NUMBER: _ClassVar[int]
    LAYERS_PRESENT_FIELD_NUMBER: _ClassVar[int]
    NUM_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DENSE_U16_FIELD_NUMBER: _ClassVar[int]
    DENSE_U32_FIELD_NUMBER: _ClassVar[int]
    SPARSE_FIELD_NUMBER: _ClassVar[int]
    num_layers: int
    layer_offset: int
    layers_present: int
    num_experts: int
    top_k: int
    num_tokens: int
    unknown_tokens: int
    dense_u16: bytes
    dense_u32: bytes
    sparse: SparseCounts
    def __init__(self, num_layers: _Optional[int] = ..., layer_offset: _Optional[int] = ..., layers_present: _Optional[int] = ..., num_experts: _Optional[int] = ..., top_k: _Optional[int] = ..., num_tokens: _Optional[int] = ..., unknown_tokens: _Optional[int] = ..., dense_u16: _Optional[bytes] = ..., dense_u32: _Optional[bytes] = ..., sparse: _Optional[_Union[SparseCounts, _Mapping]] = ...) -> None: ...

class SparseCounts(_message.Message):
    __slots__ = ("index", "count")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    index: _containers.RepeatedScalarFieldContainer[int]
    count: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, index: _Optional[_Iterable[int]] = ..., count: _Optional[_Iterable[int]] = ...) -> None: ...
