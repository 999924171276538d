"""The scheduler's side: follows requests, plans each step, takes the workers' reports on it."""

import dataclasses
import logging
import secrets
import socket
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from eldr_client import LoadReport, ReleaseOutcome, RouterClient, traces
from numpy.typing import NDArray
from vllm.config import VllmConfig
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.request import RequestStatus

from eldr_vllm.attention_group import AttentionGroup, attention_group
from eldr_vllm.generation_config import labels_of
from eldr_vllm.guard import Guard, UnsupportedError
from eldr_vllm.messages import BlockHash, Geometry, StepPlan, StepReport
from eldr_vllm.recording.files import RecordingFiles
from eldr_vllm.recording.recorder import Recorder
from eldr_vllm.scheduler import transfer_params
from eldr_vllm.scheduler.address import Address
from eldr_vllm.scheduler.block_hashes import BlockHashes
from eldr_vllm.scheduler.capture_state import CaptureState
from eldr_vllm.scheduler.decode import DecodeSide
from eldr_vllm.scheduler.decode_counts import DecodeCounts
from eldr_vllm.scheduler.outbox import Outbox
from eldr_vllm.scheduler.prefill import PrefillSide
from eldr_vllm.scheduler.probe import Probe, can_probe
from eldr_vllm.scheduler.recording import RecordSide
from eldr_vllm.scheduler.registration import Registration
from eldr_vllm.scheduler.startup import Startup
from eldr_vllm.scheduler.step import KvSlots, ScheduledStep
from eldr_vllm.scheduler.tally import Tally
from eldr_vllm.settings import UNSAID_ROLE, Settings

logger = logging.getLogger("vllm.eldr")  # appears in vLLM's log


class SchedulerSide:
    """One engine core's side. Its methods never raise: bookings end even if the capture fails.

    Raises
    ------
    OSError
        A credential cannot be read.
    """

    def __init__(self, config: VllmConfig, kv_cache: KVCacheConfig, settings: Settings) -> None:
        parallel, model = config.parallel_config, config.model_config
        self._settings = settings
        self._config = config
        self._model = settings.model or str(model.served_model_name)
        self._address = Address.of(settings, parallel)
        self._capturing, self._booking = Guard("capture"), Guard("bookings")
        self.capture = CaptureState(can_probe(settings, config.kv_transfer_config))
        self._probe_key = secrets.token_hex(16)
        group = self._group(config, kv_cache)
        self._slots = KvSlots(group.index, group.block_size)
        self._hashes = BlockHashes(config, kv_cache, group.block_size)
        self._kv_tokens = kv_cache.num_blocks * group.block_size
        self._requests: dict[str, Any] = {}
        self._local_tokens: dict[str, int] = {}
        self._filled_blocks: list[BlockHash] = []
        self._registration: Registration | None = None
        self._startup: Startup | None = None
        self.tally = Tally(self.capture)
        spans = traces.begin("eldr-vllm", logger.warning)
        client = RouterClient(
            trace_context=spans.context if spans.is_on else None, **settings.endpoint()
        )
        dropped = partial(self.tally.add, "messages_dropped")
        self._outbox = Outbox(client, settings.outbox, spans, dropped)
        self._wound_up = False
        self._drafts = config.speculative_config is not None
        # If a step is scheduled before the last one's drafts are verified, positions are guesses.
        self._guesses = self._drafts and config.scheduler_config.async_scheduling
        name = self._address.worker_id if settings.registered else ""
        self._prefill = PrefillSide(
            settings,
            self._model,
            f"{name}/prefill" if name and settings.role == "both" else name,
            self._outbox,
            self.capture,
            self.tally,
        )
        self._decode: DecodeSide | None = None
        if settings.decodes:
            self._decode = DecodeSide(
                settings, self._model, self._kv_tokens, self._outbox, self._drafts
            )
        self._record: RecordSide | None = None

    def _group(self, config: VllmConfig, kv_cache: KVCacheConfig) -> AttentionGroup:
        try:
            return attention_group(config, kv_cache)
        except UnsupportedError as error:
            self.capture.stop(str(error))
            return AttentionGroup(0, config.cache_config.block_size, "")

    def _recording(self, num_experts: int, top_k: int) -> RecordSide:
        settings = self._settings
        role = settings.role if settings.role in ("prefill", "decode") else "both"
        engine = f"{self._address.worker_id or socket.gethostname()}.{role}"
        about = {
            "model": self._model,
            "engine": engine,
            "role": role,
            "share": f"{settings.record_share:g}",
            "num_experts": str(num_experts),
            "top_k": str(top_k),
        }
        files = RecordingFiles(Path(settings.record), engine, int(settings.record_max_mb * 1e6))
        recorder = Recorder(files, about)
        return RecordSide(role, settings.record_share, recorder, answers=not self._drafts)

    def bind(self, kv_cache_manager: Any) -> None:
        """The KV cache is there."""
        if self._decode is not None:
            self._decode.kv_cache_manager = kv_cache_manager

    def register(self, ranks: Sequence[Geometry], stopped: str) -> None:
        """The engine is complete; each pipeline rank says what it captures, or why it cannot."""
        geometry = (sum(rank[0] for rank in ranks), *ranks[0][1:]) if ranks else None
        if any(rank[1:] != ranks[0][1:] for rank in ranks):
            stopped = stopped or f"the pipeline ranks' MoE layers differ in shape: {ranks}"
        if self._settings.record:
            model = self._config.model_config
            said = model.get_num_experts(), model.get_num_experts_per_tok()
            self._record = self._recording(*geometry[1:] if geometry else said)
        if stopped or geometry is None:
            self._stop(stopped or "no worker process listens")
        else:
            self._count(geometry)
        if self._settings.registered:
            self._registration = self._registered(geometry)
        elif self._settings.url:
            logger.warning(UNSAID_ROLE)
        if self._settings.url and self._settings.health_check:
            probe = Probe(
                self._settings, self._address, self._config, self._probe_key, self.capture
            )
            ready = [self._registration.set_ready] if self._registration is not None else []
            self._startup = Startup(
                self._address.url,
                probe.run,
                *ready,
                then=probe.again,
                every=self._settings.probe_every,
            )

    def _count(self, geometry: Geometry) -> None:
        self.tally.layers, num_experts, top_k = geometry
        self._prefill.top_k = top_k
        if self._decode is not None and self._settings.decode_counts and not self._guesses:
            rows = 2 * self._config.scheduler_config.max_num_seqs  # preempted ones keep their rows
            self._decode.count_answers(DecodeCounts(rows, num_experts), top_k)

    def _registered(self, geometry: Geometry | None) -> Registration:
        reports = {"DECODE": self._report} if self._decode is not None else {}
        if self._settings.prefills and self._settings.role != "replica":
            reports["PREFILL"] = lambda: LoadReport(capture=self.capture.status())
        return Registration(
            self._settings,
            reports,
            {
                "model": self._model,
                "labels": {**self._settings.labels, **labels_of(self._config.model_config)},
                "max_sequences": self._settings.capacity
                or self._config.scheduler_config.max_num_seqs,
                "max_kv_tokens": self._kv_tokens,
                "geometry": geometry,
            },
            self._address,
        )

    def begin(self, request: Any) -> None:
        """A request has arrived."""
        is_probe = transfer_params.is_probe(request, self._probe_key)
        is_prefill = transfer_params.is_prefill(request, self._settings.role)
        is_decode = self._settings.role == "replica" or not is_prefill
        if self._decode is not None and is_decode and not is_probe:
            self._booking.run(self._decode.begin, request, time.monotonic())
        self._capturing.run(self._begin, request, is_probe, is_prefill)

    def _begin(self, request: Any, is_probe: bool, is_prefill: bool) -> None:
        self._requests[request.request_id] = request
        if is_probe or (is_prefill and self.capture.capturing):
            self._prefill.begin(request, is_probe)
        if self._record is not None and not is_probe:
            self._record.begin(request)

    def match(self, request: Any, num_computed_tokens: int) -> None:
        """A request's tokens in the prefix cache; the ones after may be filled from outside."""
        self._local_tokens[request.request_id] = num_computed_tokens

    def fill(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """`blocks` (KVCacheBlocks) are all of a request's; `num_external_tokens` are from outside.

        Which blocks are filled follows from their positions: vLLM may have hashed them already.
        """
        if num_external_tokens:
            self._capturing.run(self._fill, request, blocks, num_external_tokens)

    def _fill(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        start = self._local_tokens[request.request_id]
        ids = blocks.get_block_ids()[self._slots.group]
        self._filled_blocks += self._hashes.between(
            request, ids, start, start + num_external_tokens
        )

    def _filled_by_others(self, step: ScheduledStep, begun: set[str]) -> list[BlockHash]:
        """Blocks computed before a request's first step but in no prefix cache came from outside.

        A connector beside this one may have loaded them without this one being told.
        """
        filled = []
        for name in begun:
            (before, _), local = step.computed[name], self._local_tokens.get(name, 0)
            if before > local:
                blocks = self._slots.blocks(name, before)
                filled += self._hashes.between(self._requests[name], blocks, local, before)
        return filled

    def _completed(self, step: ScheduledStep) -> list[BlockHash]:
        completed = []
        for name, (before, after) in step.computed.items():
            if before // self._slots.block_size != after // self._slots.block_size:
                blocks = self._slots.blocks(name, after)
                completed += self._hashes.completed(self._requests[name], blocks, before, after)
        return completed

    def plan(self, output: Any) -> StepPlan | None:
        """What the workers need to know about the step in `output` (SchedulerOutput)."""
        now = time.monotonic()
        cached = output.scheduled_cached_reqs
        if self._decode is not None:
            counts = zip(cached.req_ids, cached.num_output_tokens, strict=True)
            writing = [name for name, count in counts if count]
            self._booking.run(self._decode.plan, writing, now, len(output.num_scheduled_tokens))
        plan = None
        if not self.capture.stopped:
            plan = self._capturing.run(self._plan, output, now)
        if plan is None:  # the probe may have stopped it, on its own thread
            self._stop(self._capturing.reason)
        return plan

    def _plan(self, output: Any, now: float) -> StepPlan:
        cached = output.scheduled_cached_reqs
        before = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        before.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        scheduled = output.num_scheduled_tokens.items()
        step = ScheduledStep(
            now,
            {name: (before[name], before[name] + count) for name, count in scheduled},
            cached.resumed_req_ids,
            self._slots,
        )
        self._slots.begin(output.kv_connector_block_state.resolve_block_ids, step.resumed)
        filled, self._filled_blocks = self._filled_blocks, []
        begun = {new.req_id for new in output.scheduled_new_reqs} | step.resumed
        filled += self._filled_by_others(step, begun)
        copies = getattr(output, "kv_cache_block_copies", None) or ()
        plan = StepPlan(
            now,
            num_tokens=output.total_num_scheduled_tokens,
            spans=self._spans(step),
            generating=sum(
                after >= self._requests[name].num_prompt_tokens
                for name, (_, after) in step.computed.items()
            ),
            filled_blocks=filled + [(copy.dst_block_id, None) for copy in copies],
            completed_blocks=self._completed(step) if self._settings.prefills else [],
            chunks=self._prefill.plan(step),
            keeps_counts=self._settings.prefills or not self.capture.capturing,
        )
        if self._decode is not None:
            plan.answer_rows, plan.answer_slots = self._decode.wanted(step)
        if self._record is not None:
            plan.recorded_slots, chunks = self._record.plan(step)
            plan.chunks += chunks
        return plan

    def _spans(self, step: ScheduledStep) -> NDArray[np.int64]:
        spans = np.zeros((len(step.computed), 3), np.int64)
        for index, (name, (before, after)) in enumerate(step.computed.items()):
            if not self._guesses or after <= self._requests[name].num_prompt_tokens:
                first, last = step.slots.slot(name, before), step.slots.slot(name, after - 1)
                spans[index] = first, last, after - before
        return spans

    def take(self, ranks: dict[int, list[StepReport]], stopped: str) -> None:
        """Each pipeline rank's reports on one or a few steps; or why there will be no more."""
        now = time.monotonic()
        for step in zip(*(ranks[rank] for rank in sorted(ranks)), strict=False):
            self._capturing.run(self._take, list(step), now)
        if stopped or self._capturing.reason:
            self._stop(stopped or self._capturing.reason)

    def _take(self, step: list[StepReport], now: float) -> None:
        first = step[0]
        if any(report.started != first.started for report in step):
            raise UnsupportedError("the pipeline ranks report different steps")
        totals = [report.totals for report in step]
        self._prefill.take([list(parts) for parts in zip(*totals, strict=True)])
        if self._decode is not None:
            layers = sum(report.layers for report in step)
            known = all(report.distinct for report in step)
            active = sum(report.distinct for report in step) / layers if known else 0.0
            self._decode.take(first.started, first.generating, active, now)
            experts = [report.answer_experts for report in step]
            if any(part is None for part in experts):
                self._decode.lose(first.answer_rows)
            else:
                self._decode.count(first.answer_rows, np.concatenate(experts, axis=1))
        if self._record is not None:
            self._record.take(step, now)

    def finish(self, request: Any) -> dict[str, Any] | None:
        """A request has ended; returns the `eldr` of its answer."""
        if self._decode is not None:
            self._booking.run(self._decode.finish, request, time.monotonic())
            if not self._booking.active:
                self._release(request)
        return self._capturing.run(self._finish, request)

    def _finish(self, request: Any) -> dict[str, Any] | None:
        self._requests.pop(request.request_id, None)
        self._local_tokens.pop(request.request_id, None)
        self._slots.forget(request.request_id)
        if self._record is not None:
            self._record.finish(request, time.monotonic())
        aborted = request.status == RequestStatus.FINISHED_ABORTED
        said = self._prefill.finish(request, aborted)
        is_last = self._settings.role == "replica"  # nothing decodes after it
        return None if is_last and not transfer_params.is_probe(request, self._probe_key) else said

    def _release(self, request: Any) -> None:
        """End the booking of a request, with no other information about it."""
        booked = transfer_params.booking(request)
        if booked is not None:
            self._outbox.put(partial(_release, self._model, booked))

    def close(self) -> None:
        """Deregister, and send what is pending."""
        for part in (self._startup, self._registration):
            if part is not None:
                part.close()
        self._outbox.close()
        if self._record is not None:
            self._record.close()

    def _stop(self, reason: str) -> None:
        self.capture.stop(reason)
        if self._wound_up:
            return
        self._wound_up = True
        self._prefill.stop()
        for side in (self._decode, self._record):
            if side is not None:
                side.stop_counting()

    def _report(self) -> LoadReport:
        """The load; only that the engine lives, if its bookings are no longer known."""
        assert self._decode is not None
        report = self._decode.report() if self._booking.active else LoadReport()
        return dataclasses.replace(report, capture=self.capture.status())


def _release(model: str, booked: transfer_params.Booking, client: RouterClient) -> None:
    client.release(
        model,
        booked.request_id,
        attempt=booked.attempt,
        lease_id=booked.lease_id,
        outcome=ReleaseOutcome.COMPLETED,
    )
