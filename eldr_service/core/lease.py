"""Bookings of one model: who holds which request, for how long, and how that ended.

A booking's identity is (request_id, attempt). The table decides what a Route, a Release or a report
means for it; the fleet's counts follow from what it returns. Times are seconds of one monotonic clock
that the caller reads.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.errors import FailedPreconditionError
from eldr_service.core.placement import Reason

TOMBSTONE_SECONDS = 600.0
MAX_REMEMBERED = 1_000_000


class Ended(Enum):
    """How a booking ended."""

    RELEASED = "released"
    EXPIRED = "its lease expired"
    SUPERSEDED = "superseded by a higher attempt"
    REPORTED_GONE = "its worker no longer reports it"
    WORKER_GONE = "its worker is gone"
    RELEASED_EARLY = "released before it was routed"

    @property
    def final(self) -> bool:
        """The same attempt cannot be placed again."""
        return self in (Ended.RELEASED, Ended.RELEASED_EARLY, Ended.SUPERSEDED)


@dataclass(slots=True, eq=False)
class Booking:
    """One request on one worker, and the answer that was given for it.

    Attributes
    ----------
    request_id, attempt : the identity
    lease_id : str
    row, generation : int
        The worker's place in the fleet, and which of the place's tenants it was.
    worker_id : str
    num_sequences, prompt_tokens, expected_output_tokens : int
    fingerprint : int
        Of the request's payload; the same identity with another one is refused.
    lease_seconds, expires_at : float
    reason, policy, partition_version, similarity, coverage, stale, alternates
        The answer, repeated as it was.
    slot : int
        The partition's slot that the placement counts for; -1 for none.
    counts : ndarray of uint32, shape [num_layers, num_experts], or None
        The activation counts, for policies that keep state.
    seen_running : bool
        The worker has reported it.
    absences : int
        Later reports in a row without it.
    """

    request_id: str
    attempt: int
    lease_id: str
    row: int
    generation: int
    worker_id: str
    num_sequences: int
    prompt_tokens: int
    expected_output_tokens: int
    fingerprint: int
    lease_seconds: float
    expires_at: float
    reason: Reason
    policy: str
    partition_version: int = 0
    similarity: float | None = None
    coverage: float = 0.0
    stale: bool = False
    alternates: tuple[str, ...] = ()
    slot: int = -1
    counts: NDArray[np.uint32] | None = None
    seen_running: bool = False
    absences: int = 0
