"""What travels with each step between the scheduler's side and the workers' side."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)

_NONE = np.empty(0, np.int64)


@dataclass(slots=True)
class PromptChunk:
    """A prompt whose counts so far are wanted after this step.

    `blocks` are those of its first `num_tokens` tokens, in order. (epoch, sequence) number the
    chunk; `last` says that the prompt ends here.
    """

    request_id: str
    epoch: int
    sequence: int
    blocks: NDArray[np.int64]
    num_tokens: int
    last: bool


@dataclass(slots=True)
class StepPlan:
    """What the workers should know of a step.

    `started` is the scheduler's clock. `generating` sequences get a token from this step.
    `filled_blocks` get their content from outside, before the step writes anything. The experts of
    the tokens at the KV slots `answer_slots` are wanted, for the row of DecodeCounts that
    `answer_rows` has beside each; those at `recorded_slots`, for the recording.
    """

    started: float
    generating: int = 0
    filled_blocks: list[int] = field(default_factory=list)
    chunks: list[PromptChunk] = field(default_factory=list)
    answer_rows: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    answer_slots: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    recorded_slots: NDArray[np.int64] = field(default_factory=lambda: _NONE)


@dataclass(slots=True)
class PromptTotal:
    """The answer to a PromptChunk: counts uint32 [local layers, experts] of the prompt so far."""

    request_id: str
    epoch: int
    sequence: int
    last: bool
    counts: NDArray[np.uint32]
    num_tokens: int
    unknown_tokens: int


@dataclass(slots=True)
class StepReport:
    """What one pipeline rank says of a step.

    `distinct` experts were touched over its `layers` MoE layers together. `answer_experts` [n,
    layers, top_k] belong to the plan's `answer_rows`, `recorded` to its `recorded_slots`; each is
    None where none were wanted.
    """

    started: float
    generating: int
    layers: int
    distinct: int
    totals: list[PromptTotal]
    answer_rows: NDArray[np.int64]
    answer_experts: NDArray[np.integer] | None
    recorded: NDArray[np.integer] | None = None


@dataclass(slots=True)
class EldrMetadata(KVConnectorMetadata):
    """The inner connector's metadata and ours."""

    inner: KVConnectorMetadata
    plan: StepPlan | None


@dataclass(slots=True)
class EldrWorkerMetadata(KVConnectorWorkerMetadata):
    """The inner connector's metadata and ours, by pipeline rank."""

    inner: KVConnectorWorkerMetadata | None
    reports: dict[int, list[StepReport]]

    def aggregate(self, other: KVConnectorWorkerMetadata) -> "EldrWorkerMetadata":
        """Both; ranks that share their layers saw the same, so one of them is enough."""
        assert isinstance(other, EldrWorkerMetadata)
        inner = self.inner or other.inner
        if self.inner is not None and other.inner is not None:
            inner = self.inner.aggregate(other.inner)
        return EldrWorkerMetadata(inner, {**other.reports, **self.reports})


@dataclass(slots=True)
class EldrHandshake(KVConnectorHandshakeMetadata):
    """The inner connector's handshake, and how many MoE layers the rank has (0: none captured)."""

    inner: KVConnectorHandshakeMetadata | None
    layers: int
