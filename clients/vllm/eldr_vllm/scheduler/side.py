"""The scheduler's side: follows the requests, plans each step, hears what the workers say of it."""

import logging
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
from eldr_client import LoadReport, RouterClient
from vllm.config import VllmConfig
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.request import RequestStatus

from eldr_vllm.guard import Guard
from eldr_vllm.messages import StepPlan, StepReport
from eldr_vllm.recording.files import RecordingFiles
from eldr_vllm.recording.recorder import Recorder
from eldr_vllm.scheduler.address import Address
from eldr_vllm.scheduler.decode import DecodeSide
from eldr_vllm.scheduler.decode_counts import DecodeCounts
from eldr_vllm.scheduler.outbox import Outbox
from eldr_vllm.scheduler.prefill import PrefillSide
from eldr_vllm.scheduler.recording import RecordSide
from eldr_vllm.scheduler.registration import Registration
from eldr_vllm.settings import UNSAID_ROLE, Settings

logger = logging.getLogger("vllm.eldr")  # so that it comes out in vLLM's log


class SchedulerSide:
    """One engine core's.

    Raises
    ------
    OSError
        A credential cannot be read.
    """

    def __init__(
        self, config: VllmConfig, kv_cache: KVCacheConfig, settings: Settings, guard: Guard
    ) -> None:
        parallel, model = config.parallel_config, config.model_config
        self._settings = settings
        self._config = config
        self._guard = guard
        self._model = settings.model or str(model.served_model_name)
        self._address = Address.of(settings, parallel)
        self._block_size = config.cache_config.block_size
        self._kv_tokens = kv_cache.num_blocks * self._block_size
        self._prompt_tokens: dict[str, int] = {}
        self._local_tokens: dict[str, int] = {}
        self._filled_blocks: list[int] = []
        self._registration: Registration | None = None
        self._outbox = Outbox(RouterClient(**settings.endpoint()), settings.outbox)
        self._prefill: PrefillSide | None = None
        self._decode: DecodeSide | None = None
        if settings.prefills:
            name = self._address.worker_id if settings.registered else ""
            self._prefill = PrefillSide(
                settings,
                self._model,
                f"{name}/prefill" if name and settings.decodes else name,
                model.get_num_experts_per_tok(),
                self._outbox,
            )
        if settings.decodes:
            rows = 2 * config.scheduler_config.max_num_seqs  # preempted ones keep theirs
            self._decode = DecodeSide(
                settings,
                self._model,
                self._kv_tokens,
                model.get_num_experts_per_tok(),
                DecodeCounts(rows, model.get_num_experts()) if settings.decode_counts else None,
                self._outbox,
            )
        self._record = self._recording() if settings.record else None

    def _recording(self) -> RecordSide:
        settings, model = self._settings, self._config.model_config
        role = settings.role or "both"
        engine = f"{self._address.worker_id or socket.gethostname()}.{role}"
        about = {
            "model": self._model,
            "engine": engine,
            "role": role,
            "share": f"{settings.record_share:g}",
            "num_experts": str(model.get_num_experts()),
            "top_k": str(model.get_num_experts_per_tok()),
        }
        files = RecordingFiles(Path(settings.record), engine, int(settings.record_max_mb * 1e6))
        return RecordSide(role, settings.record_share, Recorder(files, about))

    def bind(self, kv_cache_manager: Any) -> None:
        """The KV cache is there."""
        if self._decode is not None:
            self._decode.kv_cache_manager = kv_cache_manager

    def register(self, num_layers: int) -> None:
        """The engine is complete, with so many MoE layers (0 where the workers do not know)."""
        if not self._settings.registered:
            if self._settings.url:
                logger.warning(UNSAID_ROLE)
            return
        model = self._config.model_config
        geometry = num_layers, model.get_num_experts(), model.get_num_experts_per_tok()
        reports = {"DECODE": self._report} if self._decode is not None else {}
        if self._prefill is not None:
            reports["PREFILL"] = LoadReport
        self._registration = Registration(
            self._settings,
            reports,
            {
                "model": self._model,
                "max_sequences": self._settings.capacity
                or self._config.scheduler_config.max_num_seqs,
                "max_kv_tokens": self._kv_tokens,
                "geometry": geometry if num_layers else None,
            },
            self._address,
        )

    def begin(self, request: Any) -> None:
        """A request has come."""
        self._prompt_tokens[request.request_id] = request.num_prompt_tokens
        for side in (self._prefill, self._decode, self._record):
            if side is not None:
                side.begin(request)

    def match(self, request: Any, num_computed_tokens: int) -> None:
        """So many tokens of the request are in the prefix cache; from there on it may be filled."""
        self._local_tokens[request.request_id] = num_computed_tokens

    def fill(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """`blocks` (KVCacheBlocks) are all of the request's; so many tokens come from outside.

        Which blocks are filled follows from their positions: vLLM may have hashed them already.
        """
        if num_external_tokens:
            start = self._local_tokens[request.request_id]
            end = start + num_external_tokens
            first, last = start // self._block_size, -(-end // self._block_size)
            self._filled_blocks += blocks.get_block_ids()[0][first:last]

    def plan(self, output: Any) -> StepPlan:
        """What the workers should know of the step that `output` (SchedulerOutput) describes."""
        now = time.monotonic()
        scheduled = output.num_scheduled_tokens
        cached = output.scheduled_cached_reqs
        before = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        before.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        computed = {name: (before[name], before[name] + count) for name, count in scheduled.items()}
        filled, self._filled_blocks = self._filled_blocks, []
        filled += [copy.dst_block_id for copy in output.kv_cache_block_copies or ()]
        plan = StepPlan(
            now,
            generating=sum(
                after >= self._prompt_tokens.get(name, 0) for name, (_, after) in computed.items()
            ),
            filled_blocks=filled,
        )
        if self._prefill is not None:
            plan.chunks = self._prefill.plan(
                computed,
                cached.resumed_req_ids,
                output.kv_connector_block_state.resolve_block_ids,
                self._block_size,
            )
        if self._decode is not None:
            counts = zip(cached.req_ids, cached.num_output_tokens, strict=True)
            self._decode.plan((name for name, count in counts if count), now, len(scheduled))
            plan.answer_rows, plan.answer_slots = self._decode.wanted(
                computed,
                cached.resumed_req_ids,
                output.kv_connector_block_state.resolve_block_ids,
                self._block_size,
            )
        if self._record is not None:
            plan.recorded_slots, chunks = self._record.plan(
                computed,
                cached.resumed_req_ids,
                output.kv_connector_block_state.resolve_block_ids,
                self._block_size,
                now,
            )
            plan.chunks += chunks
        return plan

    def take(self, ranks: dict[int, list[StepReport]]) -> None:
        """The reports of each pipeline rank on one step, or on a few.

        No rank at all: the workers have stepped aside.
        """
        if not ranks:
            for side in (self._decode, self._record):
                if side is not None:
                    side.stop_counting()
        for step in zip(*(ranks[rank] for rank in sorted(ranks)), strict=True):
            first = step[0]
            if self._prefill is not None:
                totals = [report.totals for report in step]
                self._prefill.take([list(parts) for parts in zip(*totals, strict=True)])
            if self._decode is not None:
                layers = sum(report.layers for report in step)
                active = sum(report.distinct for report in step) / layers
                self._decode.take(first.started, first.generating, active, time.monotonic())
                if first.answer_experts is not None:
                    experts = [report.answer_experts for report in step]
                    self._decode.count(first.answer_rows, np.concatenate(experts, axis=1))
            if self._record is not None:
                self._record.take(list(step), time.monotonic())

    def finish(self, request: Any) -> dict[str, Any] | None:
        """A request has ended; what its answer should carry as `eldr`."""
        self._prompt_tokens.pop(request.request_id, None)
        self._local_tokens.pop(request.request_id, None)
        if self._decode is not None:
            self._decode.finish(request, time.monotonic())
        if self._record is not None:
            self._record.finish(request, time.monotonic())
        if self._prefill is None:
            return None
        aborted = request.status == RequestStatus.FINISHED_ABORTED
        return self._prefill.finish(request, aborted)

    def close(self) -> None:
        """Deregister, and say what is unsaid."""
        if self._registration is not None:
            self._registration.close()
        self._outbox.close()
        if self._record is not None:
            self._record.close()

    def _report(self) -> LoadReport:
        """Only that the engine lives, once the shim has stepped aside and counts no longer."""
        return self._decode.report() if self._guard.active else LoadReport()
