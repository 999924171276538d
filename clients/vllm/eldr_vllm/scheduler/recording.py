"""The scheduler's side of a recording: what it asks of each step, and what it writes."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eldr_vllm.messages import PromptChunk, StepReport
from eldr_vllm.recording.recorder import Recorder
from eldr_vllm.recording.tables import is_sampled, request_key
from eldr_vllm.scheduler.new_tokens import NewTokens
from eldr_vllm.scheduler.step import ScheduledStep
from eldr_vllm.scheduler.transfer_params import is_prefill, request_name


@dataclass(slots=True, kw_only=True)
class _Request:
    """One request of the engine.

    `reads`: its prompt is computed here; `writes`: its answer is. `asks`: only the recording asks
    for its prompt's counts. `recorded` tokens of its answer were written.
    """

    key: int
    sequence: int
    arrival: float
    prompt_tokens: int
    reads: bool
    writes: bool
    asks: bool
    sampled: bool
    tokens: NewTokens
    started: float = 0.0
    first_token: float = 0.0
    asked: bool = False
    recorded: int = 0


@dataclass(slots=True)
class _Step:
    """A step in progress: tokens computed, tokens of context, requests whose experts will come."""

    tokens: int
    context: int
    writing: list[_Request]


class RecordSide:
    """Called by the scheduler's thread only. All times are Unix seconds of the wall clock.

    Parameters
    ----------
    role : {"prefill", "decode", "both"}
    share : float
        Share of the requests whose experts are recorded.
    recorder : Recorder
    answers : bool
        Whether the experts of answers are recorded too.
    """

    def __init__(self, role: str, share: float, recorder: Recorder, answers: bool = True) -> None:
        self._role, self._share, self._answers = role, share, answers
        self._recorder = recorder
        self._requests: dict[str, _Request] = {}
        # Sampled requests whose counts have not come; vLLM reports their end earlier.
        self._keys: dict[str, int] = {}
        self._planned: dict[float, _Step] = {}  # by time
        self._sequences = 0
        self._last_output = 0.0
        self._wall = time.time() - time.monotonic()

    def begin(self, request: Any) -> None:
        """A request has arrived."""
        if not self._recorder.active:
            return
        prefill = is_prefill(request, self._role)
        remote = bool((request.kv_transfer_params or {}).get("do_remote_prefill"))
        reads = prefill or (self._role == "both" and not remote)
        key = request_key(request_name(request))
        self._requests[request.request_id] = _Request(
            key=key,
            sequence=self._sequences,
            arrival=request.arrival_time,
            prompt_tokens=request.num_prompt_tokens,
            reads=reads,
            writes=not prefill,
            asks=reads and not prefill,
            sampled=is_sampled(key, self._share),
            tokens=NewTokens(request.num_prompt_tokens),
        )
        self._sequences += 1

    def plan(self, step: ScheduledStep) -> tuple[NDArray[np.int64], list[PromptChunk]]:
        """KV slots whose experts are wanted from this step, and prompts whose counts are."""
        writing: list[_Request] = []
        slots: list[int] = []
        chunks = []
        context = 0
        for request_id, (before, after) in step.computed.items():
            request = self._requests.get(request_id)
            if request is None:
                continue
            request.started = request.started or step.now
            if after < request.prompt_tokens:
                continue
            context += after
            if after > request.prompt_tokens:  # it generated a token before this step
                request.first_token = request.first_token or step.now
            if not request.sampled:
                continue
            if request.reads and not request.asked:
                request.asked = True
                self._keys[request_id] = request.key
                if request.asks:
                    chunks.append(_whole_prompt(request_id, request, step))
            if request.writes and self._answers:
                new = request.tokens.advance(before, after)
                request.recorded += len(new)
                slots += [step.slots.slot(request_id, position) for position in new]
                writing += [request] * len(new)
        tokens = sum(after - before for before, after in step.computed.values())
        self._planned[step.now] = _Step(tokens, context, writing)
        return np.array(slots, np.int64), chunks

    def take(self, step: list[StepReport], now: float) -> None:
        """The pipeline ranks' reports on one step, in order."""
        first = step[0]
        for parts in zip(*(report.totals for report in step), strict=True):
            total = parts[0]
            if total.last and (key := self._keys.pop(total.request_id, None)) is not None:
                counts = np.concatenate([part.counts for part in parts])
                self._recorder.put("signatures", [key], [total.unknown_tokens], counts[None])
        planned = self._planned.pop(first.started, None)
        if planned is None or not first.generating:
            return
        if self._role != "prefill":
            # Steps overlap with asynchronous scheduling: see DecodeSide.take.
            seconds = now - max(first.started, self._last_output)
            self._last_output = now
            distinct = sum(report.distinct for report in step)
            sizes = first.generating, planned.tokens, planned.context, distinct
            self._recorder.put("steps", [(now + self._wall, seconds)], [sizes])
        if first.recorded is not None:
            experts = np.concatenate([report.recorded for report in step], axis=1)
            self._recorder.put("tokens", [each.sequence for each in planned.writing], experts)
        else:
            for request in planned.writing:  # the step's experts are unknown
                request.recorded -= 1

    def finish(self, request: Any, now: float) -> None:
        """A request has ended."""
        known = self._requests.pop(request.request_id, None)
        if known is None or not known.started:
            return
        first_token = known.first_token or now
        if known.reads and request.num_output_tokens:
            times = known.arrival, known.started + self._wall, first_token + self._wall
            self._recorder.put("prefills", [known.key], [times], [known.prompt_tokens])
        if known.writes and request.num_output_tokens:
            times = known.arrival, first_token + self._wall, now + self._wall
            tokens = known.prompt_tokens, request.num_output_tokens, known.recorded
            self._recorder.put("decodes", [known.key], [known.sequence], [times], [tokens])

    def stop_counting(self) -> None:
        """No more experts will come."""
        self._keys.clear()
        self._planned.clear()

    def close(self) -> None:
        """Write what is pending."""
        self._recorder.close()


def _whole_prompt(request_id: str, request: _Request, step: ScheduledStep) -> PromptChunk:
    tokens = request.prompt_tokens
    blocks = np.array(step.slots.blocks(request_id, tokens), np.int64)
    return PromptChunk(
        request_id=request_id, epoch=0, sequence=0, blocks=blocks, num_tokens=tokens, last=True
    )
