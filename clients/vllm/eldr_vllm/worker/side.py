"""The workers' side: counts the experts of each step, and answers the scheduler's requests."""

import logging
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vllm.config import VllmConfig
from vllm.distributed.parallel_state import get_pp_group, get_tp_group
from vllm.v1.kv_cache_interface import KVCacheConfig

from eldr_vllm.attention_group import attention_group
from eldr_vllm.guard import UnsupportedError
from eldr_vllm.messages import PromptChunk, PromptTotal, StepPlan, StepReport
from eldr_vllm.settings import Settings
from eldr_vllm.worker.batch import Batch
from eldr_vllm.worker.capture import ExpertRows, HostRows, experts_at
from eldr_vllm.worker.checks import FailedStepError, check_experts, check_slots
from eldr_vllm.worker.distinct import count_distinct
from eldr_vllm.worker.drafted_blocks import DraftedBlocks
from eldr_vllm.worker.known_blocks import KnownBlocks
from eldr_vllm.worker.moe_layers import moe_layers
from eldr_vllm.worker.signature_cache import SignatureCache

logger = logging.getLogger("vllm.eldr")  # appears in vLLM's log

MOST_FAILED_STEPS = 3
"""Failed steps in a row that end the capture."""
MOST_UNREAD_STEPS = 16
"""Most steps that may wait to be read; vLLM has far fewer in flight."""


@dataclass(slots=True)
class _Step:
    """A submitted step: its rows, or why there are none."""

    number: int
    plan: StepPlan
    order: list[int] | None
    rows: HostRows | FailedStepError | None


class WorkerSide:
    """One pipeline rank's side. Tensor-parallel ranks see the same, so only the first one reports.

    `begin`, `see` and `finish` are called by the model runner's thread; `reports` maybe by another.

    Raises
    ------
    UnsupportedError
        The model or layout cannot be captured.
    """

    def __init__(self, config: VllmConfig, kv_cache: KVCacheConfig, settings: Settings) -> None:
        self._group = attention_group(config, kv_cache)
        self._config, self._layers = config, moe_layers(config)
        self.geometry = len(self._layers), self._layers.num_experts, self._layers.top_k
        self.rank = get_pp_group().rank_in_group
        self._num_experts = self._layers.num_experts
        self._decodes = settings.decodes
        self._speaks = get_tp_group().rank_in_group == 0
        self._plan: StepPlan | None = None
        self._batch = Batch(self._group.layer)
        self._steps: deque[_Step] = deque()
        self._ready: list[StepReport] = []
        self._number = 0
        self._failed = 0
        self._lock = threading.Lock()
        self._rows: ExpertRows | None = None
        self._cache: SignatureCache | None = None
        self._drafted: DraftedBlocks | None = None
        if self._speaks:
            self._cache = SignatureCache(
                kv_cache.num_blocks,
                self._group.block_size,
                *self.geometry,
            )
            self._known = KnownBlocks(self._cache, kv_cache.num_blocks)
            if config.speculative_config is not None:
                self._drafted = DraftedBlocks(
                    self._cache,
                    self._group.block_size,
                    config.speculative_config.num_speculative_tokens,
                    config.scheduler_config.max_num_seqs,
                )

    def listen(self) -> None:
        """Attach to the layers, before a forward pass is captured in a CUDA graph."""
        # Sequence-parallel shards are gathered from all ranks, so all of them must listen.
        if self._speaks or self._config.parallel_config.use_sequence_parallel_moe:
            self._rows = ExpertRows(self._layers, self._config)

    def begin(self, plan: StepPlan) -> None:
        """A step is about to run."""
        self._plan, self._batch = plan, Batch(self._group.layer)
        if self._rows is not None:
            self._rows.begin(plan.num_tokens)
            self._batch.look({})

    def see(self, load_kwargs: Mapping[str, Any]) -> None:
        """More is known about the step's batch; `load_kwargs` are those of `start_load_kv`."""
        if self._rows is not None:
            self._batch.look(load_kwargs)

    def finish(self) -> int:
        """The step has been submitted; returns its number, for `reports`."""
        plan, self._plan = self._plan, None
        if self._rows is not None and self._speaks and plan is not None:
            rows: HostRows | FailedStepError | None = None
            if plan.num_tokens:
                try:
                    rows = self._take()
                except FailedStepError as error:
                    rows = error
            self._number += 1
            self._steps.append(_Step(self._number, plan, self._batch.order, rows))
            if len(self._steps) > MOST_UNREAD_STEPS:
                with self._lock:
                    self._read(self._steps[0].number)
        return self._number

    def reports(self, number: int) -> list[StepReport]:
        """Reports on all steps up to this one that were not returned yet; waits for the device.

        Raises
        ------
        UnsupportedError
            Several steps in a row were captured wrongly.
        """
        with self._lock:
            self._read(number)
            ready, self._ready = self._ready, []
            return ready

    def _take(self) -> HostRows:
        if self._batch.slots is None:
            raise FailedStepError("the model runner gave no KV slots")
        return self._rows.take(self._batch.slots)

    def _read(self, number: int) -> None:
        while self._steps and self._steps[0].number <= number:
            step = self._steps.popleft()
            try:
                self._ready.append(self._report(step))
            finally:
                if isinstance(step.rows, HostRows):
                    self._rows.give_back(step.rows)

    def _report(self, step: _Step) -> StepReport:
        plan = step.plan
        report = StepReport(
            started=plan.started,
            generating=plan.generating,
            layers=len(self._layers),
            distinct=0,
            totals=[],
            answer_rows=plan.answer_rows,
            answer_experts=None,
        )
        if not plan.keeps_counts:
            self._cache = None
        if self._cache is not None and plan.filled_blocks:
            self._known.fill(plan.filled_blocks)
        try:
            if step.rows is not None:
                self._count(report, plan, *self._checked(step, step.rows))
                self._failed = 0
        except FailedStepError as error:
            self._forget(error)
        if self._cache is not None:
            report.totals = [self._total(self._cache, chunk) for chunk in plan.chunks]
            if self._drafted is not None:
                self._drafted.add_behind()
        return report

    def _checked(
        self, step: _Step, rows: HostRows | FailedStepError
    ) -> tuple[NDArray[np.int64], NDArray[np.integer]]:
        if isinstance(rows, FailedStepError):
            raise rows
        slots, experts = rows.read()
        check_slots(slots, step.plan.num_tokens, step.plan.spans, step.order)
        try:
            check_experts(experts, self._num_experts, self._rows.missing)
        except FailedStepError:
            if self._cache is not None:
                self._cache.mark_unknown(np.unique(slots // self._group.block_size))
            raise
        return slots, experts

    def _count(
        self,
        report: StepReport,
        plan: StepPlan,
        slots: NDArray[np.int64],
        experts: NDArray[np.integer],
    ) -> None:
        if len(plan.answer_slots):
            report.answer_experts = experts_at(plan.answer_slots, slots, experts)
        if np.array_equal(plan.recorded_slots, plan.answer_slots):  # every answer is recorded
            report.recorded = report.answer_experts
        elif len(plan.recorded_slots):
            report.recorded = experts_at(plan.recorded_slots, slots, experts)
        if self._cache is not None:
            begun = slots[slots % self._group.block_size == 0] // self._group.block_size
            self._known.begin_anew(begun.tolist())
            if self._drafted is None:
                self._cache.add(slots, experts)
            else:
                ends = [self._end(chunk) for chunk in plan.chunks]
                self._drafted.add(slots, experts, ends)
            self._known.complete(plan.completed_blocks)
        if self._decodes and plan.generating:
            report.distinct = int(count_distinct(experts, self._num_experts))

    def _end(self, chunk: PromptChunk) -> int:
        """The slot of its last token."""
        size = self._group.block_size
        return int(chunk.blocks[-1]) * size + (chunk.num_tokens - 1) % size

    def _forget(self, error: FailedStepError) -> None:
        """What a failed step computed is unknown."""
        self._failed += 1
        if self._cache is not None and not error.slots_hold:
            self._cache.reset()  # it is unknown which blocks it wrote
        if self._failed >= MOST_FAILED_STEPS:
            raise UnsupportedError(f"{self._failed} steps in a row failed: {error}") from error
        logger.warning("ELDR leaves out a step: %s", error)

    @staticmethod
    def _total(cache: SignatureCache, chunk: PromptChunk) -> PromptTotal:
        total = cache.total(chunk.blocks, chunk.num_tokens)
        return PromptTotal(
            request_id=chunk.request_id,
            epoch=chunk.epoch,
            sequence=chunk.sequence,
            last=chunk.last,
            counts=total.counts,
            num_tokens=total.num_tokens,
            unknown_tokens=total.unknown_tokens,
        )
