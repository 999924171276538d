"""What the latest decisions saw, kept so that they can be explained when somebody asks.

A decision pays for one tuple of references: what it saw is never written to again. Signatures and
centroids are not kept, since they are most of the memory.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from eldr_service.core.booking import Booking
from eldr_service.core.decision import Decision, FleetSnapshot, RequestView
from eldr_service.policies.policy import Policy, PolicyParameters
from eldr_service.policies.registry import parameters_of
from eldr_service.routing.call import Known, RouteCall
from eldr_service.routing.decide import Filters
from eldr_service.routing.why import Basis, WorkerScore, in_words, scores

MAX_DECISIONS = 4_096
MAX_BYTES = 16 << 20  # of each model
_RECORD_BYTES = 1_500
_WORKER_BYTES = 128  # as if no two decisions shared what a report replaces
_CENTROIDS = FleetSnapshot._fields.index("quantised")


@dataclass(frozen=True, slots=True)
class Explanation:
    """One decision, put in words. Times in seconds of the decision's clock.

    Attributes
    ----------
    rule : str
        What took this worker, with its numbers.
    parameters : mapping of str to str
        The policy's.
    known_tokens, prompt_tokens : int
        Whose experts were known, of so many; 0 where that is not known.
    early : bool
        The signature was not complete.
    booking : Booking or None
        While it lives.
    ended : str
        How it ended; empty while it lives, or where that is forgotten.
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
    stale: bool
    booking: Booking | None
    ended: str
    decisions_kept: int


class Kept(NamedTuple):
    """One decision, as it is kept: nothing here is ever written to."""

    decided_at: float
    fleet: tuple[Any, ...]  # a FleetSnapshot without its centroids
    filters: Filters
    decision: Decision
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
    stale: bool
    nbytes: int


class Explanations:
    """Those of one model, the oldest dropped first.

    Parameters
    ----------
    most : int
        Decisions that are kept; 0 keeps none.
    max_bytes : int
        That they may take, by an estimate.
    """

    def __init__(self, most: int = MAX_DECISIONS, max_bytes: int = MAX_BYTES) -> None:
        self.most = most
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[tuple[str, int], Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(
        self, call: RouteCall, known: Known, booking: Booking, basis: Basis, policy: Policy,
        number: int, now: float,
    ) -> None:  # fmt: skip
        """Keep what a decision saw; `number` is the one that the policy knew it by."""
        if not self.most:
            return
        fleet, filters, decision = basis
        labels = call.labels
        nbytes = _RECORD_BYTES + len(fleet.worker_ids) * (_WORKER_BYTES + len(filters.steps))
        if labels:
            nbytes += sum(len(key) + len(value) + 100 for key, value in labels.items())
        key = booking.key
        if before := self._kept.pop(key, None):
            self._bytes -= before.nbytes
        self._kept[key] = Kept(
            now,
            fleet[:_CENTROIDS] + (None,) + fleet[_CENTROIDS + 1 :],  # noqa: RUF005 (it is faster)
            filters,
            decision,
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
            booking.stale,
            nbytes,
        )
        self._bytes += nbytes
        while len(self._kept) > self.most or self._bytes > self._max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes

    def attempts(self, request_id: str) -> list[int]:
        """The attempts of a request that are kept, the highest last."""
        return sorted(attempt for name, attempt in self._kept if name == request_id)

    def explain(
        self, request_id: str, attempt: int, booking: Booking | None, ended: str
    ) -> Explanation:
        """Put a decision that is kept in words; `booking` and `ended` are what came of it."""
        kept = self._kept[request_id, attempt]
        fleet = FleetSnapshot(*kept.fleet)
        basis = Basis(fleet, kept.filters, kept.decision)
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
            rule=in_words(policy, request, fleet, kept.decision),
            basis=basis,
            scores=scores(basis, kept.decided_at),
            coverage=kept.coverage,
            known_tokens=known,
            prompt_tokens=max(seen, kept.prompt_tokens),
            partition_version=kept.partition_version,
            early=kept.early,
            stale=kept.stale,
            booking=booking,
            ended=ended,
            decisions_kept=len(self._kept),
        )
