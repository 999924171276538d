"""Messages between the scheduler's side and the workers' side, sent with each step."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)

_NONE = np.empty(0, np.int64)
Geometry = tuple[int, int, int]  # MoE layers, experts, top_k
BlockHash = tuple[int, bytes | None]
"""A KV block and, if known, the hash of its contents from the beginning of the prompt on."""

_NO_SPANS = np.empty((0, 3), np.int64)


@dataclass(slots=True, kw_only=True)
class PromptChunk:
    """A prompt whose counts so far are wanted after this step.

    `blocks` are those of its first `num_tokens` tokens, in order. (epoch, sequence) number the
    chunk; `last` means that the prompt ends here.
    """

    request_id: str
    epoch: int
    sequence: int
    blocks: NDArray[np.int64]
    num_tokens: int
    last: bool


@dataclass(slots=True)
class StepPlan:
    """What the workers need to know about a step.

    `started` is by the scheduler's clock. `num_tokens` are computed; `spans` [requests, 3] says
    where: the first and the last KV slot of each request, in the order of the scheduler's output,
    and its tokens (0 if only the workers know). `generating` sequences get a token from this step.
    `filled_blocks` are filled from outside, before the step writes anything; `completed_blocks` are
    full after it. The experts of the tokens at the KV slots `answer_slots` are wanted, for the rows
    of DecodeCounts in `answer_rows`; those at `recorded_slots`, for the recording. If
    `keeps_counts` is false, no prompt's counts will be asked for any more.
    """

    started: float
    _: KW_ONLY
    num_tokens: int = 0
    spans: NDArray[np.int64] = field(default_factory=lambda: _NO_SPANS)
    generating: int = 0
    filled_blocks: list[BlockHash] = field(default_factory=list)
    completed_blocks: list[BlockHash] = field(default_factory=list)
    chunks: list[PromptChunk] = field(default_factory=list)
    answer_rows: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    answer_slots: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    recorded_slots: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    keeps_counts: bool = True


@dataclass(slots=True, kw_only=True)
class PromptTotal:
    """The answer to a PromptChunk: counts uint32 [local layers, experts] of the prompt so far."""

    request_id: str
    epoch: int
    sequence: int
    last: bool
    counts: NDArray[np.uint32]
    num_tokens: int
    unknown_tokens: int


@dataclass(slots=True, kw_only=True)
class StepReport:
    """One pipeline rank's report on a step.

    `distinct` experts were touched, summed over its `layers` MoE layers; 0 if unknown.
    `answer_experts` [n, layers, top_k] belong to the plan's `answer_rows`, `recorded` to its
    `recorded_slots`; each is None if none were wanted, or if the step's experts are unknown.
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


class EldrWorkerMetadata(KVConnectorWorkerMetadata):
    """The inner connector's metadata and ours.

    The reports are made when they are first read, or when vLLM pickles them for the scheduler: by
    then it has waited for the step, so that nothing has to wait for the device earlier.

    Parameters ---------- inner : KVConnectorWorkerMetadata, optional report : callable () ->
    ({pipeline rank: reports of steps}, reason why the capture stopped, or "")
    """

    def __init__(
        self,
        inner: KVConnectorWorkerMetadata | None,
        report: Callable[[], tuple[dict[int, list[StepReport]], str]],
    ) -> None:
        self.inner = inner
        self._report = report
        self._made: tuple[dict[int, list[StepReport]], str] | None = None

    def report(self) -> tuple[dict[int, list[StepReport]], str]:
        """Reports by pipeline rank, and why the capture has stopped, if it has."""
        if self._made is None:
            self._made = self._report()
        return self._made

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self.inner, *self.report())

    def aggregate(self, other: KVConnectorWorkerMetadata) -> "EldrWorkerMetadata":
        """Merge both; ranks that share layers saw the same, so one report of them is enough."""
        assert isinstance(other, EldrWorkerMetadata)
        inner = self.inner or other.inner
        if self.inner is not None and other.inner is not None:
            inner = self.inner.aggregate(other.inner)
        (ours, stopped), (theirs, stopped_too) = self.report(), other.report()
        return _arrived(inner, {**theirs, **ours}, stopped or stopped_too)


def _arrived(
    inner: KVConnectorWorkerMetadata | None, reports: dict[int, list[StepReport]], stopped: str
) -> EldrWorkerMetadata:
    return EldrWorkerMetadata(inner, lambda: (reports, stopped))


@dataclass(slots=True)
class EldrHandshake(KVConnectorHandshakeMetadata):
    """The inner connector's handshake, and what the rank captures: MoE layers, experts, top_k.

    None if it cannot capture, and `stopped` says why.
    """

    inner: KVConnectorHandshakeMetadata | None
    geometry: Geometry | None
    stopped: str = ""
