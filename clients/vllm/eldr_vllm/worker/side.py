"""The workers' side: counts the experts of each step, and answers what the scheduler asks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from vllm.config import VllmConfig
from vllm.distributed.parallel_state import get_pp_group, get_tp_group
from vllm.forward_context import ForwardContext
from vllm.v1.kv_cache_interface import KVCacheConfig

from eldr_vllm import compat
from eldr_vllm.guard import Guard
from eldr_vllm.messages import PromptTotal, StepPlan, StepReport
from eldr_vllm.settings import Settings
from eldr_vllm.worker.capture import DeviceExpertRows, ExpertRows, Rows, experts_at
from eldr_vllm.worker.distinct import count_distinct
from eldr_vllm.worker.signature_cache import SignatureCache


class WorkerSide:
    """One pipeline rank's listener. Tensor-parallel ranks see the same, so only the first speaks.

    Raises
    ------
    UnsupportedError
        Model, layout or device is not one that is captured rightly.
    """

    def __init__(
        self, config: VllmConfig, kv_cache: KVCacheConfig, settings: Settings, guard: Guard
    ) -> None:
        compat.check_layout(config, kv_cache, settings.force)
        layers = compat.moe_layers(config, settings.force)
        parallel = config.parallel_config
        self.num_layers = len(layers)
        self.rank = get_pp_group().rank_in_group
        self._num_experts = layers[0].num_experts
        self._plan: StepPlan | None = None
        self._slots: torch.Tensor | None = None
        self._rows: ExpertRows[StepPlan] | None = None
        self._cache: SignatureCache | None = None
        self._decodes = settings.decodes
        self._speaks = get_tp_group().rank_in_group == 0
        # Sequence-parallel shards are gathered from all ranks, so there all of them listen.
        if not self._speaks and parallel.data_parallel_size == 1:
            return
        device = torch.device(config.device_config.device)
        self._rows = (ExpertRows if device.type == "cpu" else DeviceExpertRows)(
            layers,
            max_rows=config.scheduler_config.max_num_batched_tokens + 1_024,  # and padding
            dp_rank=parallel.data_parallel_rank,
            tp_size=parallel.tensor_parallel_size,
            device=device,
            guard=guard,
        )
        if settings.prefills and self._speaks:
            self._cache = SignatureCache(
                kv_cache.num_blocks,
                kv_cache.kv_cache_groups[0].kv_cache_spec.block_size,
                self.num_layers,
                self._num_experts,
                layers[0].top_k,
            )

    def begin(self, plan: StepPlan) -> None:
        """A step is about to run."""
        self._plan, self._slots = plan, None

    def see(self, context: ForwardContext, load_kwargs: Mapping[str, Any]) -> None:
        """Its batch is known."""
        self._slots = compat.slot_mapping(context, load_kwargs)

    def finish(self) -> list[StepReport] | None:
        """The step has been submitted; reports of those steps whose rows are on the host.

        None where another rank speaks for this one.
        """
        plan, self._plan = self._plan, None
        if self._rows is None or plan is None:
            return None
        steps = self._rows.collect(self._slots, plan)
        return [self._report(*step) for step in steps] if self._speaks else None

    def _report(self, plan: StepPlan, rows: Rows) -> StepReport:
        slots, experts = rows
        totals = []
        if self._cache is not None:
            if plan.filled_blocks:
                self._cache.mark_unknown(np.array(plan.filled_blocks, np.int64))
            self._cache.add(slots, experts)
            totals = [self._total(chunk) for chunk in plan.chunks]
        distinct, answer_experts, recorded = 0, None, None
        if self._decodes and plan.generating:
            distinct = int(count_distinct(experts, self._num_experts))
        if len(plan.answer_slots):
            answer_experts = experts_at(plan.answer_slots, slots, experts)
        if np.array_equal(plan.recorded_slots, plan.answer_slots):  # every answer is recorded
            recorded = answer_experts
        elif len(plan.recorded_slots):
            recorded = experts_at(plan.recorded_slots, slots, experts)
        return StepReport(
            plan.started,
            plan.generating,
            self.num_layers,
            distinct,
            totals,
            plan.answer_rows,
            answer_experts,
            recorded,
        )

    def _total(self, chunk: Any) -> PromptTotal:
        total = self._cache.total(chunk.blocks, chunk.num_tokens)
        return PromptTotal(
            chunk.request_id,
            chunk.epoch,
            chunk.sequence,
            chunk.last,
            total.counts,
            total.num_tokens,
            total.unknown_tokens,
        )
