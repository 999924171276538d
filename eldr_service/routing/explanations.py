"""What the latest decisions saw, kept so that they can be explained on request.

A decision costs a tuple and one copy of its own arrays; the rest is shared with the fleet, and
never written to. Signatures and centroids are not kept, since they would be most of the memory.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from eldr_service.core.booking import Booking
from eldr_service.core.decision import Decision, FleetSnapshot, RequestView
from eldr_service.core.signature_memory import SignatureSource
from eldr_service.policies.policy import Policy, PolicyParameters
from eldr_service.policies.registry import parameters_of
from eldr_service.routing.call import Known, RouteCall
from eldr_service.routing.decide import AT_CAPACITY, Filters
from eldr_service.routing.why import Basis, WorkerScore, in_words, scores

MAX_DECISIONS = 4_096
MAX_BYTES = 16 << 20  # per model
_RECORD_BYTES = 1_500
_WORKER_BYTES = 64  # as if decisions shared nothing that a report replaces
_BOOL, _FLOAT, _INT = np.dtype(np.bool_), np.dtype(np.float64), np.dtype(np.int64)


@dataclass(frozen=True, slots=True)
class Explanation:
    """An explained decision. Times in seconds of the decision's clock.

    Attributes
    ----------
    rule : str
        The rule that chose this worker, with its numbers.
    parameters : mapping of str to str
        The policy's.
    known_tokens, prompt_tokens : int
        Tokens with known experts, and all tokens; 0 if unknown.
    early : bool
        Whether the signature was incomplete.
    source : SignatureSource
        Where it came from.
    booking : Booking or None
        While it lives.
    ended : str
        How it ended; empty while it lives, or if that is forgotten.
    decisions_kept : int
    """

    request_id: str
    attempt: int
    decided_at: float
    policy: str
    parameters: Mapping[str, str]
    rule: str
    basis: Basis
    scores: tuple[WorkerScore, ...]
    coverage: float
    known_tokens: int
    prompt_tokens: int
    partition_version: int
    early: bool
    source: SignatureSource
    stale: bool
    booking: Booking | None
    ended: str
    decisions_kept: int


class Kept(NamedTuple):
    """One decision, as stored: nothing here is ever written to.

    `fleet` and `decision` lack the arrays that are in `packed`, and the centroids.
    """

    request_id: str
    attempt: int
    decided_at: float
    packed: bytes
    dtypes: tuple[Any, ...]  # of the decision's arrays in `packed`; False for absent ones
    fleet: tuple[Any, ...]
    steps: tuple[Any, ...]  # of the filters, except the last
    last_resort: int
    decision: tuple[Any, ...]
    policy: type[Policy]
    parameters: PolicyParameters
    number: int
    num_sequences: int
    prompt_tokens: int
    expected_output_tokens: int
    labels: Mapping[str, str]
    tokens: tuple[int, int]
    coverage: float
    partition_version: int
    early: bool
    source: SignatureSource
    stale: bool
    nbytes: int

    def basis(self) -> Basis:
        """What the decision saw and what it was."""
        n, at = len(self.fleet[0]), 0
        arrays: list[Any] = []
        for dtype in (_BOOL, _FLOAT, _INT, *self.dtypes):
            arrays.append(np.frombuffer(self.packed, dtype, n, at) if dtype is not False else None)
            at += n * dtype.itemsize if dtype is not False else 0
        eligible, load, sequences, similarity, in_band, near, experts, cost = arrays
        ids, rows, capacity, slots, stale, labels, reported_at, cached_tokens = self.fleet
        unknown = np.full(n, np.nan)
        fleet = FleetSnapshot(
            worker_ids=ids,
            rows=rows,
            eligible=eligible,
            load=load,
            sequences=sequences,
            capacity=capacity,
            slots=slots,
            quantised=None,
            stale=stale,
            active_experts=unknown,
            batch_size=unknown,
            step_seconds=unknown,
            labels=labels,
            reported_at=reported_at,
            cached_tokens=cached_tokens,
        )
        worker, reason, grounds = self.decision
        decision = Decision(worker, reason, similarity, in_band, experts, near, cost, grounds)
        full = (AT_CAPACITY, sequences < capacity)
        return Basis(fleet, Filters(eligible, (*self.steps, full), self.last_resort), decision)


class Explanations:
    """The explanations of one model, oldest dropped first.

    Parameters
    ----------
    most : int
        Most decisions kept; 0 keeps none.
    max_bytes : int
        Most memory, by an estimate.
    """

    def __init__(self, most: int = MAX_DECISIONS, max_bytes: int = MAX_BYTES) -> None:
        self.most = most
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: deque[tuple[Any, ...]] = deque()  # fields of Kept, which is built on request

    def __len__(self) -> int:
        return len(self._kept)

    def keep(
        self, call: RouteCall, known: Known, booking: Booking, basis: Basis, policy: Policy,
        number: int, now: float,
    ) -> None:  # fmt: skip
        """Keep what a decision saw; `number` is its number for the policy."""
        if not self.most:
            return
        fleet, filters, decision = basis
        similarity, in_band, near = decision.similarity, decision.in_band, decision.near
        experts, cost = decision.predicted_active_experts, decision.cost
        arrays = [fleet.eligible, fleet.load, fleet.sequences]
        if similarity is not None:
            arrays.append(similarity)
        if in_band is not None:
            arrays.append(in_band)
        if near is not None:
            arrays.append(near)
        if experts is not None:
            arrays.append(experts)
        if cost is not None:
            arrays.append(cost)
        # One copy, so that the arrays' memory is reused while it is in the caches.
        try:
            packed = b"".join(arrays)  # type: ignore[arg-type]
        except BufferError:  # a foreign policy may return a strided array
            packed = b"".join(array.tobytes() for array in arrays)
        dtypes = (
            similarity is not None and similarity.dtype,
            in_band is not None and in_band.dtype,
            near is not None and near.dtype,
            experts is not None and experts.dtype,
            cost is not None and cost.dtype,
        )
        labels = call.labels
        steps = filters.steps[:-1]
        nbytes = _RECORD_BYTES + len(packed) + len(fleet.worker_ids) * (_WORKER_BYTES + len(steps))
        if fleet.cached_tokens is not None:
            nbytes += fleet.cached_tokens.nbytes
        if labels:
            nbytes += sum(len(key) + len(value) + 100 for key, value in labels.items())
        kept = self._kept
        kept.append(
            (
                booking.request_id,
                booking.attempt,
                now,
                packed,
                dtypes,
                (
                    fleet.worker_ids,
                    fleet.rows,
                    fleet.capacity,
                    fleet.slots,
                    fleet.stale,
                    fleet.labels,
                    fleet.reported_at,
                    fleet.cached_tokens,
                ),
                steps,
                filters.last_resort,
                (decision.worker, decision.reason, decision.grounds),
                type(policy),
                policy.parameters,
                number,
                call.num_sequences,
                call.prompt_tokens,
                call.expected_output_tokens,
                labels,
                known.tokens,
                known.coverage,
                booking.partition_version,
                booking.early,
                booking.source,
                booking.stale,
                nbytes,
            )
        )
        self._bytes += nbytes
        while len(kept) > self.most or self._bytes > self._max_bytes:
            self._bytes -= kept.popleft()[-1]

    def attempts(self, request_id: str) -> list[int]:
        """The request's attempts that are kept, highest last."""
        return sorted({attempt for name, attempt, *_ in self._kept if name == request_id})

    def explain(
        self, request_id: str, attempt: int, booking: Booking | None, ended: str
    ) -> Explanation:
        """Explain a kept decision; `booking` and `ended` are what became of it."""
        wanted = (request_id, attempt)
        kept = Kept._make(next(one for one in reversed(self._kept) if one[:2] == wanted))
        basis = kept.basis()
        fleet, _, decision = basis
        policy = kept.policy(kept.parameters)
        request = RequestView(
            request_id=request_id,
            number=kept.number,
            coverage=kept.coverage,
            num_sequences=kept.num_sequences,
            prompt_tokens=kept.prompt_tokens,
            expected_output_tokens=kept.expected_output_tokens,
            labels=kept.labels,
        )
        known, seen = kept.tokens
        return Explanation(
            request_id=request_id,
            attempt=attempt,
            decided_at=kept.decided_at,
            policy=policy.name,
            parameters=parameters_of(policy),
            rule=in_words(policy, request, fleet, decision),
            basis=basis,
            scores=scores(basis, kept.decided_at),
            coverage=kept.coverage,
            known_tokens=known,
            prompt_tokens=max(seen, kept.prompt_tokens),
            partition_version=kept.partition_version,
            early=kept.early,
            source=kept.source,
            stale=kept.stale,
            booking=booking,
            ended=ended,
            decisions_kept=len(self._kept),
        )
