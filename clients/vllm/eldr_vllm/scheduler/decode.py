"""The scheduler's side of decodes: what the engine runs, and the end of each booking."""

import threading
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

import numpy as np
from eldr_client import Counts, LoadReport, ReleaseOutcome, RouterClient, span_attributes
from numpy.typing import NDArray
from vllm.v1.request import RequestStatus

from eldr_vllm.scheduler.decode_counts import DecodeCounts
from eldr_vllm.scheduler.drafts import Drafts
from eldr_vllm.scheduler.new_tokens import NewTokens
from eldr_vllm.scheduler.outbox import Outbox
from eldr_vllm.scheduler.step import ScheduledStep
from eldr_vllm.scheduler.transfer_params import Booking, booking
from eldr_vllm.settings import Settings

# A stop string also ends a request by an abort; the engine cannot tell them apart.
_OUTCOMES = {
    RequestStatus.FINISHED_ABORTED: ReleaseOutcome.CANCELLED,
    RequestStatus.FINISHED_ERROR: ReleaseOutcome.FAILED,
    RequestStatus.FINISHED_IGNORED: ReleaseOutcome.FAILED,
}


@dataclass(slots=True)
class _Held:
    """A booking whose sequences are here: how many run, how many have ended, what they generated.

    Its answer is counted in `row`: None before its first token, _NO_ROW if it is not counted.
    The experts of `awaited` tokens have not come yet; with `lost`, some never will. `ending` is
    what its release will say.
    """

    booking: Booking
    _: KW_ONLY
    running: int = 0
    ended: int = 0
    output_tokens: int = 0
    first_token: float = 0.0
    row: int | None = None
    awaited: int = 0
    lost: bool = False
    ending: tuple[ReleaseOutcome, float] | None = None


_NO_ROW = -1


@dataclass(slots=True)
class _Sequence:
    """One request of the engine; `held` is None if ELDR did not place it."""

    held: _Held | None
    tokens: NewTokens | Drafts
    first_token: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Steps:
    """Sums over the steps since the last report; `token_experts` weights each by its tokens."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    expert_steps: int = 0  # with known experts
    expert_tokens: int = 0
    experts: float = 0.0
    token_experts: float = 0.0


class DecodeSide:
    """Called by the scheduler's thread; `report` by the worker session's.

    Parameters
    ----------
    settings : Settings
    model : str
    kv_tokens : int
        Tokens that the KV cache holds.
    outbox : Outbox
    drafts : bool
        Whether vLLM decodes speculatively: some of what it computes is rejected.
    """

    def __init__(
        self,
        settings: Settings,
        model: str,
        kv_tokens: int,
        outbox: Outbox,
        drafts: bool = False,
    ) -> None:
        self._settings = settings
        self._model = model
        self._kv_tokens = kv_tokens
        self._counts: DecodeCounts | None = None
        self._top_k = 0
        self._outbox = outbox
        self._new_tokens = Drafts if drafts else NewTokens
        # Tokens whose experts are held back: (sequence, position), by the number for them.
        self._awaited: dict[int, tuple[_Sequence, int]] = {}
        self._asked = 0
        self._lock = threading.Lock()
        self._sequences: dict[str, _Sequence] = {}
        self._held: dict[Booking, _Held] = {}
        self._by_row: dict[int, _Held] = {}
        self._running = 0
        self._last_output = 0.0
        self._steps = _Steps()
        self.kv_cache_manager: Any = None

    def count_answers(self, counts: DecodeCounts, top_k: int) -> None:
        """Count answers from now on."""
        with self._lock:
            self._counts, self._top_k = counts, top_k

    def begin(self, request: Any, now: float) -> None:
        """A request has arrived."""
        booked = booking(request)
        sequence = _Sequence(None, self._new_tokens(request.num_prompt_tokens))
        with self._lock:
            if booked is not None:
                new = _Held(booked, output_tokens=booked.output_tokens)
                sequence.held = self._held.setdefault(booked, new)
                sequence.held.running += 1
                if booked.decode_seconds:
                    sequence.first_token = now - booked.decode_seconds
            self._sequences[request.request_id] = sequence

    def plan(self, writing: Iterable[str], now: float, scheduled: int) -> None:
        """A step is scheduled; `writing` are requests that generated a token before it."""
        with self._lock:
            self._running = scheduled
            for request_id in writing:
                sequence = self._sequences.get(request_id)
                if sequence is not None and not sequence.first_token:
                    sequence.first_token = now

    def wanted(self, step: ScheduledStep) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Answer tokens that a step computes for the first time: (rows of counts, KV slots).

        What is recomputed after a preemption was counted before. For tokens that may be rejected, a
        placeholder number takes the place of the row.
        """
        rows: list[int] = []
        slots: list[int] = []
        with self._lock:
            for request_id, (before, after) in step.computed.items():
                sequence = self._sequences.get(request_id)
                if sequence is None or sequence.held is None:
                    continue
                if isinstance(sequence.tokens, Drafts):
                    self._settle(sequence, before)
                new = sequence.tokens.advance(before, after)
                if new and (row := self._row(sequence.held)) != _NO_ROW:
                    slots += [step.slots.slot(request_id, position) for position in new]
                    drafts = isinstance(sequence.tokens, Drafts)
                    rows += self._await(sequence, new) if drafts else [row] * len(new)
                    sequence.held.awaited += len(new)
        return np.array(rows, np.int64), np.array(slots, np.int64)

    def count(self, rows: NDArray[np.int64], experts: NDArray[np.integer]) -> None:
        """Count the experts [n, L, top_k] of the tokens that `wanted` returned."""
        with self._lock:
            if self._counts is None:
                return
            if self._awaited:
                self._hold_back(rows, experts)
                return
            self._counts.add(rows, experts)
            for row in rows.tolist():
                held = self._by_row[row]
                held.awaited -= 1
                self._end(held)

    def lose(self, rows: NDArray[np.int64]) -> None:
        """The experts of the tokens that `wanted` returned are unknown, so their answers' are."""
        with self._lock:
            for row in rows.tolist():
                sequence, _ = self._awaited.pop(row, (None, 0))
                held = self._by_row.get(row) if sequence is None else sequence.held
                if held is not None:
                    held.awaited -= 1
                    held.lost = True
                    self._end(held)

    def stop_counting(self) -> None:
        """No more experts will come; what waits for them is released without."""
        with self._lock:
            self._counts = None
            for held in self._by_row.values():
                held.row, held.awaited = _NO_ROW, 0
                self._end(held)
            self._by_row.clear()
            self._awaited.clear()

    def take(self, started: float, generating: int, active_experts: float, now: float) -> None:
        """A step's output has come; `active_experts` is the mean over layers, 0 if unknown."""
        if not generating:
            return
        with self._lock:
            steps = self._steps
            steps.steps += 1
            steps.tokens += generating
            # Steps overlap with asynchronous scheduling: each lasts from its own beginning or the
            # end of the one before, whichever is later.
            steps.seconds += now - max(started, self._last_output)
            self._last_output = now
            if active_experts:
                steps.expert_steps += 1
                steps.expert_tokens += generating
                steps.experts += active_experts
                steps.token_experts += active_experts * generating

    def finish(self, request: Any, now: float) -> None:
        """A request has ended; its booking ends with the last of its sequences."""
        with self._lock:
            sequence = self._sequences.pop(request.request_id, None)
            if sequence is None or sequence.held is None:
                return
            held = sequence.held
            if isinstance(sequence.tokens, Drafts):
                # The last token ends the answer without passing a layer.
                sequence.tokens.ends = request.num_prompt_tokens + request.num_output_tokens - 1
                self._settle(sequence, sequence.tokens.ends)
            held.running -= 1
            held.ended += 1
            held.output_tokens += request.num_output_tokens
            first = sequence.first_token or now
            held.first_token = min(held.first_token or first, first)
            outcome = _OUTCOMES.get(request.status, ReleaseOutcome.COMPLETED)
            complete = held.ended >= held.booking.num_sequences
            if held.running or not (complete or outcome is not ReleaseOutcome.COMPLETED):
                return
            del self._held[held.booking]
            held.ending = outcome, now - held.first_token
            self._end(held)

    def report(self) -> LoadReport:
        """What the engine runs now, and its steps since the last report."""
        with self._lock:
            steps, self._steps = self._steps, _Steps()
            foreign = sum(sequence.held is None for sequence in self._sequences.values())
            running = min(self._running, len(self._sequences))
            usage = self.kv_cache_manager.usage if self.kv_cache_manager is not None else 0.0
            return LoadReport(
                running_sequences=running,
                waiting_sequences=len(self._sequences) - running,
                kv_tokens_used=round(usage * self._kv_tokens),
                kv_tokens_total=self._kv_tokens,
                held=[(held.request_id, held.attempt) for held in self._held],
                foreign_sequences=foreign,
                active_experts=_mean(steps.token_experts, steps.expert_tokens),
                batch_size=_mean(steps.tokens, steps.steps),
                step_time=_mean(steps.seconds, steps.steps),
                step_active_experts=_mean(steps.experts, steps.expert_steps),
            )

    def _row(self, held: _Held) -> int:
        """The row that an answer is counted in. An answer that began without one never gets one."""
        if self._counts is None:
            return _NO_ROW
        if held.row is None:
            row = self._counts.open()
            held.row = _NO_ROW if row is None else row
            if row is not None:
                self._by_row[row] = held
        return held.row

    def _await(self, sequence: _Sequence, positions: range) -> range:
        """Placeholder numbers for tokens whose experts will be held back."""
        first, self._asked = self._asked, self._asked + len(positions)
        numbers = range(first, self._asked)
        self._awaited.update(zip(numbers, ((sequence, p) for p in positions), strict=True))
        return numbers

    def _hold_back(self, numbers: NDArray[np.int64], experts: NDArray[np.integer]) -> None:
        for number, picked in zip(numbers.tolist(), experts, strict=True):
            sequence, position = self._awaited.pop(number)
            sequence.tokens.put(position, picked)
            if sequence.tokens.ends is not None:
                self._settle(sequence, sequence.tokens.ends)
            sequence.held.awaited -= 1
            self._end(sequence.held)

    def _settle(self, sequence: _Sequence, stands: int) -> None:
        kept = sequence.tokens.settle(stands)
        if kept and self._counts is not None:
            rows = np.full(len(kept), sequence.held.row, np.int64)
            self._counts.add(rows, np.ascontiguousarray(kept))

    def _end(self, held: _Held) -> None:
        """Release the booking, if it has ended and its last experts have come.

        vLLM reports a request's end before it hands over the workers' reports on its last step.
        """
        if held.ending is None or held.awaited:
            return
        counts = None
        if self._counts is not None and held.row not in (None, _NO_ROW):
            counts = self._counts.close(held.row)
            del self._by_row[held.row]
            counts = None if held.lost else counts
        self._outbox.put(partial(self._release, held, counts))

    def _release(
        self, held: _Held, counts: NDArray[np.uint32] | None, client: RouterClient
    ) -> None:
        outcome, seconds = held.ending
        booked = held.booking
        said = span_attributes.request(self._model, booked.request_id, booked.attempt)
        with self._outbox.span("Release", said, booked.context):
            client.release(
                self._model,
                booked.request_id,
                attempt=booked.attempt,
                lease_id=booked.lease_id,
                outcome=outcome,
                output_tokens=held.output_tokens,
                decode_duration=seconds,
                decode_counts=None if counts is None else Counts(counts, self._top_k),
            )


def _mean(total: float, number: int) -> float:
    """0 for no values: unknown."""
    return total / number if number else 0.0
