"""A worker: what it registers, what it reports, and its state."""

from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import IntEnum
from typing import NamedTuple

from eldr_service.core.capture import CaptureStatus


class WorkerState(IntEnum):
    """The state of a worker; the numbers are the contract's."""

    JOINING = 1
    READY = 2
    DRAINING = 3
    GONE = 4


class Avoidance(IntEnum):
    """Why a READY worker is taken only if no better one can be; the numbers are the contract's.

    Among avoided workers, those with the lowest number come first.
    """

    NONE = 0
    SLOW = 1
    HELD_DOWN = 2
    SUSPECT = 3


class WorkerRole(IntEnum):
    """What a worker does; the numbers are the contract's."""

    DECODE = 1
    PREFILL = 2


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker registers. Times in seconds; a time to live of 0 means forever."""

    worker_id: str
    role: WorkerRole = WorkerRole.DECODE
    _: KW_ONLY
    url: str = ""
    dp_rank: int = 0
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    capacity_sequences: int = 256
    capacity_kv_tokens: int = 0
    time_to_live: float = 0.0
    capture: CaptureStatus | None = None


@dataclass(frozen=True, slots=True)
class LoadReport:
    """One report of a worker. 0 means unknown for means, None means nothing new."""

    incarnation: int
    number: int
    _: KW_ONLY
    running_sequences: int = 0
    waiting_sequences: int = 0
    kv_tokens_used: int = 0
    kv_tokens_total: int = 0
    held: Collection[tuple[str, int]] = ()
    foreign_sequences: int = 0
    active_experts: float = 0.0
    batch_size: float = 0.0
    step_seconds: float = 0.0
    step_active_experts: float = 0.0
    state: WorkerState = WorkerState.READY
    capture: CaptureStatus | None = None


class StepReport(NamedTuple):
    """Means over a worker's recent steps: sequences, experts per layer and token, seconds.

    A mean that is not known is 0.
    """

    batch_size: float
    active_experts: float
    step_seconds: float
