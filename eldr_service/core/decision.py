"""What a policy sees of a request and the fleet, and what a decision is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.activation import Counts
from eldr_service.core.quantised import QuantisedCentroids


class Reason(Enum):
    """Why this worker was chosen; the names are those of the contract's PlacementReason."""

    POLICY = 1
    LOCALITY_BAND = 2
    LEAST_LOADED_NO_SIGNATURE = 3
    LEAST_LOADED_LOW_COVERAGE = 4
    LEAST_LOADED_NO_PARTITION = 5
    PINNED = 7
    LEAST_LOADED_POLICY_ERROR = 8


class RequestView(NamedTuple):
    """A request, as a policy sees it.

    Attributes
    ----------
    request_id : str
    number : int
        Decisions booked before this one under this policy. With the policy's seed it is the only
        source of randomness (see `policies.draw`), so that a dry run changes nothing and the same
        seed gives the same placements.
    signature : ndarray of float32, shape [D], or None
        Of unit length; None if the policy does not ask for one, or there is no partition.
    counts : ndarray of uint16 or uint32, shape [num_layers, num_experts], or None
    top_k : int
        Experts that a token picks per layer: a row of counts sums to tokens x top_k; 0 if unknown.
    coverage : float
        Share of the prompt's tokens whose experts are known.
    num_sequences, prompt_tokens, expected_output_tokens : int
        Token counts are 0 if unknown.
    labels : mapping of str to str
    """

    request_id: str
    number: int = 0
    signature: NDArray[np.float32] | None = None
    counts: Counts | None = None
    top_k: int = 0
    coverage: float = 0.0
    num_sequences: int = 1
    prompt_tokens: int = 0
    expected_output_tokens: int = 0
    labels: Mapping[str, str] = MappingProxyType({})


class FleetSnapshot(NamedTuple):
    """One model's decode workers at the time of a decision, in order of registration.

    All arrays have one entry per worker and must not be written to. At least one is eligible.

    Attributes
    ----------
    worker_ids : tuple of str
    rows : ndarray of int64
        The worker's row in the fleet: constant while it lives, then reused for another worker.
        State kept by row must be dropped when `on_ended` says so.
    eligible : ndarray of bool
    load : ndarray of float64
        In flight / capacity, in the unit that the policy's `load` parameter names: 1.0 is full.
        For a worker slower than its peers, the load with one more unit times its relief, less that
        unit.
    sequences : ndarray of int64
        Booked and foreign sequences.
    capacity : ndarray of int64
        Most sequences.
    slots : ndarray of int32
        The slot that the worker is bound to; -1 for none.
    quantised : QuantisedCentroids or None
        The active partition's.
    stale : ndarray of bool
        Whether the worker's last report is older than its limit, and so not in the loads.
    active_experts, batch_size, step_seconds : ndarray of float64
        From the last report; NaN if unknown.
    labels : tuple of mappings of str to str
    reported_at : ndarray of float64, or None
        When the last report came, in seconds of the decision's clock; NaN if never.
    avoided : ndarray of int8, or None
        `Avoidance` of each worker; eligible ones have the lowest present. None if all are 0.
    spread : float
        The active partition's (`Partition.spread`); NaN without one.
    cached_tokens : ndarray of int64, or None
        Tokens of the request's prompt whose KV the worker already holds, as far as known or
        believed. None if no worker is known to hold any.
    """

    worker_ids: tuple[str, ...]
    rows: NDArray[np.int64]
    eligible: NDArray[np.bool_]
    load: NDArray[np.float64]
    sequences: NDArray[np.int64]
    capacity: NDArray[np.int64]
    slots: NDArray[np.int32]
    quantised: QuantisedCentroids | None
    stale: NDArray[np.bool_]
    active_experts: NDArray[np.float64]
    batch_size: NDArray[np.float64]
    step_seconds: NDArray[np.float64]
    labels: tuple[Mapping[str, str], ...]
    reported_at: NDArray[np.float64] | None = None
    avoided: NDArray[np.int8] | None = None
    spread: float = math.nan
    cached_tokens: NDArray[np.int64] | None = None

    @property
    def centroids(self) -> NDArray[np.float32] | None:
        """The active partition's centroids, shape [K, D]."""
        return self.quantised.centroids if self.quantised else None

    def narrowed(self, eligible: NDArray[np.bool_]) -> "FleetSnapshot":
        """The same snapshot with fewer eligible workers."""
        return self._replace(eligible=eligible)

    def least_loaded(self) -> int:
        """The eligible worker with the least load; on a tie the one that registered first."""
        return int(np.argmin(np.where(self.eligible, self.load, np.inf)))


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What a policy decided.

    Attributes
    ----------
    worker : int
        Index into the snapshot.
    reason : Reason
    similarity : ndarray of float64, or None
        Cosine of each worker's centroid and the signature, rounded to 1e-6; NaN if there is none,
        or if the decision did not need it.
    near : ndarray of float64, or None
        The same by quantised centroids, to about 1e-3, also where the decision needed no more.
    in_band : ndarray of bool, or None
        The workers among which the least loaded was taken.
    predicted_active_experts : ndarray of float64, or None
        Distinct experts per layer that a step of each worker's batch would touch with this request.
    cost : ndarray of float64, or None
        What the policy minimises, per worker; NaN for those not considered.
    grounds : tuple
        Anything else that `Policy.explain` needs from the time of the decision; small, immutable.
    """

    worker: int
    reason: Reason = Reason.POLICY
    similarity: NDArray[np.float64] | None = None
    in_band: NDArray[np.bool_] | None = None
    predicted_active_experts: NDArray[np.float64] | None = None
    near: NDArray[np.float64] | None = None
    cost: NDArray[np.float64] | None = None
    grounds: tuple[Any, ...] = ()

    @property
    def best_known_similarity(self) -> NDArray[np.float64] | None:
        """`similarity`, or `near` where that is NaN."""
        if self.similarity is None or self.near is None:
            return self.near if self.similarity is None else self.similarity
        return np.where(np.isnan(self.similarity), self.near, self.similarity)
