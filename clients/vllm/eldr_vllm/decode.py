"""The scheduler's side of a decode: what the engine runs, and the end of each booking."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from eldr_client import LoadReport, ReleaseOutcome, RouterClient
from vllm.v1.request import RequestStatus

from eldr_vllm.answer import Booking, booking, is_prefill
from eldr_vllm.outbox import Outbox
from eldr_vllm.settings import Settings

# A stop string ends a request by an abort too; the engine cannot tell the two apart.
_OUTCOMES = {
    RequestStatus.FINISHED_ABORTED: ReleaseOutcome.CANCELLED,
    RequestStatus.FINISHED_ERROR: ReleaseOutcome.FAILED,
    RequestStatus.FINISHED_IGNORED: ReleaseOutcome.FAILED,
}


@dataclass(slots=True)
class _Sequence:
    """One request of the engine; `booking` is None for one that ELDR did not place."""

    booking: Booking | None
    first_token: float = 0.0


@dataclass(slots=True)
class _Held:
    """A booking whose sequences are here: how many run, how many have ended, what they wrote."""

    running: int = 0
    ended: int = 0
    output_tokens: int = 0
    first_token: float = 0.0


@dataclass(slots=True)
class _Steps:
    """Sums over the steps since the last report; experts are weighted by generated tokens."""

    steps: int = 0
    tokens: int = 0
    experts: float = 0.0
    expert_tokens: int = 0
    seconds: float = 0.0


class DecodeSide:
    """Called by the scheduler's thread; `report` by the worker session's.

    Parameters
    ----------
    settings : Settings
    model : str
    kv_tokens : int
        Tokens that the KV cache holds.
    outbox : Outbox
    """

    def __init__(self, settings: Settings, model: str, kv_tokens: int, outbox: Outbox) -> None:
        self._settings = settings
        self._model = model
        self._kv_tokens = kv_tokens
        self._outbox = outbox
        self._lock = threading.Lock()
        self._sequences: dict[str, _Sequence] = {}
        self._held: dict[Booking, _Held] = {}
        self._running = 0
        self._last_output = 0.0
        self._steps = _Steps()
        self.kv_cache_manager: Any = None

    def begin(self, request: Any) -> None:
        """A request has come."""
        if is_prefill(request, self._settings.role):
            return
        with self._lock:
            sequence = _Sequence(booking(request))
            self._sequences[request.request_id] = sequence
            if sequence.booking is not None:
                self._held.setdefault(sequence.booking, _Held()).running += 1

    def plan(self, writing: Iterable[str], now: float, scheduled: int) -> None:
        """A step is scheduled; `writing` are the requests that have written a token before it."""
        with self._lock:
            self._running = scheduled
            for request_id in writing:
                sequence = self._sequences.get(request_id)
                if sequence is not None and not sequence.first_token:
                    sequence.first_token = now

    def take(self, started: float, generating: int, active_experts: float, now: float) -> None:
        """A step's output has come; `active_experts` is the mean over layers, 0 where unknown."""
        if not generating:
            return
        with self._lock:
            steps = self._steps
            steps.steps += 1
            steps.tokens += generating
            # Steps overlap under asynchronous scheduling: each lasts from the later of its own
            # beginning and the end of the one before.
            steps.seconds += now - max(started, self._last_output)
            self._last_output = now
            if active_experts:
                steps.experts += active_experts * generating
                steps.expert_tokens += generating

    def finish(self, request: Any, now: float) -> None:
        """A request has ended; its booking ends with the last of its sequences."""
        with self._lock:
            sequence = self._sequences.pop(request.request_id, None)
            if sequence is None or sequence.booking is None:
                return
            held = self._held[sequence.booking]
            held.running -= 1
            held.ended += 1
            held.output_tokens += request.num_output_tokens
            first = sequence.first_token or now
            held.first_token = min(held.first_token or first, first)
            outcome = _OUTCOMES.get(request.status, ReleaseOutcome.COMPLETED)
            complete = held.ended >= sequence.booking.num_sequences
            if held.running or not (complete or outcome is not ReleaseOutcome.COMPLETED):
                return
            del self._held[sequence.booking]
        self._outbox.put(
            partial(
                self._release,
                sequence.booking,
                outcome,
                held.output_tokens,
                now - held.first_token,
            )
        )

    def report(self) -> LoadReport:
        """What the engine runs now, and its steps since the last report."""
        with self._lock:
            steps, self._steps = self._steps, _Steps()
            foreign = sum(sequence.booking is None for sequence in self._sequences.values())
            running = min(self._running, len(self._sequences))
            usage = self.kv_cache_manager.usage if self.kv_cache_manager is not None else 0.0
            return LoadReport(
                running_sequences=running,
                waiting_sequences=len(self._sequences) - running,
                kv_tokens_used=round(usage * self._kv_tokens),
                kv_tokens_total=self._kv_tokens,
                held=[(held.request_id, held.attempt) for held in self._held],
                foreign_sequences=foreign,
                active_experts=steps.experts / steps.expert_tokens if steps.expert_tokens else 0.0,
                batch_size=steps.tokens / steps.steps if steps.steps else 0.0,
                step_time=steps.seconds / steps.steps if steps.steps else 0.0,
            )

    def _release(
        self,
        ended: Booking,
        outcome: ReleaseOutcome,
        output_tokens: int,
        seconds: float,
        client: RouterClient,
    ) -> None:
        client.release(
            self._model,
            ended.request_id,
            attempt=ended.attempt,
            lease_id=ended.lease_id,
            outcome=outcome,
            output_tokens=output_tokens,
            decode_duration=seconds,
        )
