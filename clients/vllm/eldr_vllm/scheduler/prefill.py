"""The scheduler's side of prefills: asks for counts, sends them, puts them in the answer."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from eldr.v1.activation_pb2 import ActivationCounts
from eldr_client import (
    Counts,
    EldrError,
    Placement,
    ReleaseOutcome,
    RouterClient,
    span_attributes,
)
from eldr_client.messages import RouteFields
from eldr_client.traces import Span, Value
from numpy.typing import NDArray

from eldr_vllm.messages import PromptChunk, PromptTotal
from eldr_vllm.prefix_hashes import BLOCK_TOKENS, prefix_hashes, token_blocks
from eldr_vllm.scheduler import transfer_params
from eldr_vllm.scheduler.capture_state import CaptureState
from eldr_vllm.scheduler.outbox import Outbox
from eldr_vllm.scheduler.prompt_tokens import model_and_salt, plain_tokens
from eldr_vllm.scheduler.step import ScheduledStep
from eldr_vllm.scheduler.tally import Tally
from eldr_vllm.settings import Settings

# Most finished requests whose counts have not come; a worker that has stepped aside never sends
# any.
_MAX_LATE = 1_024


@dataclass(slots=True, kw_only=True)
class _Prompt:
    """One request, from its arrival until its counts are in its answer.

    `tokens` are those determined by their ids, from the first on; `of_model` is what else the KV
    depends on. `sent` are the counts of the chunks sent to the daemon; with `failed`, it did not
    take all of them. `said` is the `eldr` of the answer: a dict that is returned when the request
    finishes and filled when the counts come, in the same step: vLLM calls `request_finished`
    before `update_connector_output`, and serialises after both.
    """

    name: str
    num_tokens: int
    epoch: int
    to_place: bool
    is_probe: bool
    context: dict[str, str]
    tokens: Sequence[int]
    of_model: tuple[str, str]
    sequence: int = 0
    asked: bool = False
    placed: bool = False
    failed: bool = False
    sent: tuple[NDArray[np.uint32] | int, int, int] = (0, 0, 0)
    said: dict[str, Any] = field(default_factory=dict)


class PrefillSide:
    """Not thread-safe, except for what the outbox runs.

    Parameters
    ----------
    settings : Settings
    model, worker_id : str
        As registered at the daemon; worker_id is empty if the engine is not registered.
    outbox : Outbox
    capture : CaptureState
        Keeps the share of known tokens.
    tally : Tally
        Counts what became of signatures and placements.

    Attributes
    ----------
    top_k : int
        The model's; known once the workers are there.
    """

    top_k = 0

    def __init__(
        self,
        settings: Settings,
        model: str,
        worker_id: str,
        outbox: Outbox,
        capture: CaptureState,
        tally: Tally,
    ) -> None:
        self._settings = settings
        self._model = model
        self._worker_id = worker_id
        self._outbox = outbox
        self._capture = capture
        self._tally = tally
        self._prompts: dict[str, _Prompt] = {}
        self._late: dict[str, _Prompt] = {}

    def begin(self, request: Any, is_probe: bool) -> None:
        """A request has arrived."""
        name = transfer_params.request_name(request)
        prompt = _Prompt(
            name=name,
            num_tokens=request.num_prompt_tokens,
            epoch=transfer_params.first_epoch(request),
            to_place=not is_probe and transfer_params.places(request, self._settings.place),
            is_probe=is_probe,
            context=transfer_params.trace_context(request),
            tokens=plain_tokens(request),
            of_model=model_and_salt(request, self._model),
        )
        prompt.said.update(model=self._model, request_id=name, epoch=prompt.epoch)
        self._prompts[request.request_id] = prompt

    def plan(self, step: ScheduledStep) -> list[PromptChunk]:
        """The prompt chunks to ask for in this step."""
        chunks = []
        for request_id, (_, after) in step.computed.items():
            prompt = self._prompts.get(request_id)
            if prompt is None or prompt.asked:
                continue
            if request_id in step.resumed:  # its blocks may have changed: a new epoch
                prompt.epoch, prompt.sequence = prompt.epoch + 1, 0
                prompt.said["epoch"] = prompt.epoch
            prompt.asked = after >= prompt.num_tokens
            if not prompt.asked and (prompt.is_probe or not self._settings.stream):
                continue
            if prompt.is_probe:
                prompt.said["alone"] = _is_alone(request_id, step)
            tokens = min(after, prompt.num_tokens)
            blocks = step.slots.blocks(request_id, tokens)
            if prompt.asked and prompt.sequence:
                self._place(prompt)  # with what the daemon has, so that the answer can carry it
            chunks.append(
                PromptChunk(
                    request_id=request_id,
                    epoch=prompt.epoch,
                    sequence=prompt.sequence,
                    blocks=np.array(blocks, np.int64),
                    num_tokens=tokens,
                    last=prompt.asked,
                )
            )
            prompt.sequence += 1
        return chunks

    def take(self, totals: list[list[PromptTotal]]) -> None:
        """The totals of a step: per prompt, those of the pipeline ranks in order."""
        for ranks in totals:
            first = ranks[0]
            prompt = self._prompts.get(first.request_id) or self._late.get(first.request_id)
            if prompt is None or prompt.epoch != first.epoch:
                continue
            counts = np.concatenate([total.counts for total in ranks])
            whole = None
            if first.last:
                whole = self._counts(counts, first.num_tokens, first.unknown_tokens)
                prompt.said["counts"] = transfer_params.encode_counts(whole)
                self._late.pop(first.request_id, None)
                if prompt.is_probe:
                    continue
                self._capture.add(first.num_tokens, first.unknown_tokens)
            self._send(prompt, first, counts, whole)

    def finish(self, request: Any, aborted: bool) -> dict[str, Any] | None:
        """The `eldr` of the answer; None if the prompt was not wanted, or not computed."""
        prompt = self._prompts.pop(request.request_id, None)
        if prompt is None or not prompt.asked:
            return None
        if "counts" not in prompt.said:
            self._late[request.request_id] = prompt
            if len(self._late) > _MAX_LATE:
                self._late.pop(next(iter(self._late)))
        if aborted and prompt.placed:
            self._outbox.put(partial(self._cancel, prompt))
        return prompt.said

    def stop(self) -> None:
        """No more counts will come."""
        self._late.clear()

    def _counts(self, counts: NDArray[np.uint32], tokens: int, unknown: int) -> ActivationCounts:
        return Counts(counts, self.top_k, num_tokens=tokens, unknown_tokens=unknown).to_proto()

    def _send(
        self,
        prompt: _Prompt,
        total: PromptTotal,
        counts: NDArray[np.uint32],
        whole: ActivationCounts | None,
    ) -> None:
        """Send what this chunk adds to earlier ones; `whole` is the message of a last chunk."""
        if total.sequence == 0:
            prompt.sent = 0, 0, 0
        before, tokens, unknown = prompt.sent
        if np.any(counts < before):
            return  # a failed load took blocks back; the answer still has the whole
        prompt.sent = counts, total.num_tokens, total.unknown_tokens
        places = total.last and prompt.to_place and not prompt.placed
        prompt.placed |= places
        added = counts - before, total.num_tokens - tokens, total.unknown_tokens - unknown
        chunk = whole if total.sequence == 0 else None
        self._outbox.put(partial(self._register, prompt, total, chunk, added, places))

    def _register(
        self,
        prompt: _Prompt,
        total: PromptTotal,
        chunk: ActivationCounts | None,
        added: tuple[NDArray[np.uint32], int, int],
        places: bool,
        client: RouterClient,
    ) -> None:
        about = {
            "eldr.epoch": total.epoch,
            "eldr.sequence": total.sequence,
            "eldr.last": total.last,
        }
        placement = None
        prompt.failed &= total.sequence > 0
        try:
            with self._span("StreamSignatures", prompt, about) as span:
                placement = client.stream_signature(
                    self._model,
                    prompt.name,
                    self._counts(*added) if chunk is None else chunk,
                    route=self._asked(prompt) if places else None,
                    epoch=total.epoch,
                    sequence=total.sequence,
                    last=total.last,
                    prefill_worker=self._worker_id,
                    prompt_tokens=prompt.num_tokens if total.last else 0,
                )
                if placement is not None:
                    span.say(span_attributes.placement(placement))
        except EldrError:
            prompt.failed = True
            raise
        finally:
            if total.last:
                self._tally.add("signatures_failed" if prompt.failed else "signatures_sent")
            if places:
                self._placed(prompt, placement)

    def _place(self, prompt: _Prompt) -> None:
        """Ask for the placement before the last chunk, if this side places the request."""
        if prompt.to_place and not prompt.placed:
            prompt.placed = True
            self._outbox.put(partial(self._route, prompt))

    def _route(self, prompt: _Prompt, client: RouterClient) -> None:
        placement = None
        try:
            with self._span("Route", prompt) as span:
                found = client.route(self._model, prompt.name, **self._asked(prompt))
                span.say(span_attributes.placement(found))
            placement = None if found.is_fallback else found
        finally:
            self._placed(prompt, placement)

    def _asked(self, prompt: _Prompt) -> RouteFields:
        """The fields of a Route for a prompt; hashing a long one takes milliseconds."""
        return {
            "prefill_worker": self._worker_id,
            "prefix_hashes": prefix_hashes(*prompt.of_model, token_blocks(prompt.tokens)),
            "prefix_block_tokens": BLOCK_TOKENS,
        }

    def _placed(self, prompt: _Prompt, placement: Placement | None) -> None:
        """The daemon has given a placement; or none, and the request's driver must ask."""
        self._tally.add("placements_fallback" if placement is None else "placements_received")
        if placement is not None:
            prompt.said["placement"] = transfer_params.encode_placement(placement)

    def _cancel(self, prompt: _Prompt, client: RouterClient) -> None:
        with self._span("Release", prompt):
            client.release(self._model, prompt.name, outcome=ReleaseOutcome.CANCELLED)

    def _span(
        self, method: str, prompt: _Prompt, about: Mapping[str, Value] | None = None
    ) -> AbstractContextManager[Span]:
        said = span_attributes.request(self._model, prompt.name)
        return self._outbox.span(method, {**said, **(about or {})}, prompt.context)


def _is_alone(request_id: str, step: ScheduledStep) -> bool:
    """Others compute fewer tokens than it: if they were mixed up, most would still be its own."""
    computed = {each: after - before for each, (before, after) in step.computed.items()}
    return 2 * computed[request_id] > sum(computed.values())
