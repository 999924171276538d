"""Snapshots, requests and bookings in which a test sets what it is about; the rest is plain."""

import numpy as np

from eldr_service.core.booking import Booking
from eldr_service.core.decision import FleetSnapshot, Reason, RequestView
from eldr_service.core.partition import spread_of
from eldr_service.core.quantised import QuantisedCentroids


def snapshot(
    sequences, capacity=None, eligible=None, slots=None, centroids=None, labels=None, ids=None
):
    """A fleet of workers w0, w1, ... whose rows are not their indices."""
    n = len(sequences)
    sequences = np.array(sequences, dtype=np.int64)
    capacity = np.full(n, 8) if capacity is None else np.array(capacity)
    ids = [f"w{i}" for i in range(n)] if ids is None else ids
    fleet = FleetSnapshot(
        worker_ids=tuple(ids),
        rows=np.array([100 + 7 * int(name[1:]) for name in ids], dtype=np.int64),
        eligible=np.ones(n, dtype=np.bool_) if eligible is None else np.array(eligible, np.bool_),
        load=sequences / capacity,
        sequences=sequences,
        capacity=capacity,
        slots=np.full(n, -1, np.int32) if slots is None else np.array(slots, dtype=np.int32),
        quantised=None if centroids is None else QuantisedCentroids.of(centroids),
        stale=np.zeros(n, dtype=np.bool_),
        active_experts=np.full(n, np.nan),
        batch_size=np.full(n, np.nan),
        step_seconds=np.full(n, np.nan),
        labels=tuple(labels or [{}] * n),
        spread=np.nan if centroids is None else spread_of(centroids),
    )
    for array in (fleet.eligible, fleet.load, fleet.slots, fleet.centroids):
        if array is not None:
            array.flags.writeable = False  # as in the fleet's own snapshots
    return fleet


def request(number=0, **fields):
    return RequestView(request_id=f"request-{number}", number=number, **fields)


def booking(fleet, worker):
    return Booking(
        request_id="request",
        attempt=0,
        lease_id="lease",
        row=int(fleet.rows[worker]),
        generation=0,
        worker_id=fleet.worker_ids[worker],
        num_sequences=1,
        prompt_tokens=0,
        expected_output_tokens=0,
        fingerprint=0,
        lease_seconds=900.0,
        expires_at=900.0,
        reason=Reason.POLICY,
        policy="test",
    )


def picks(policy, fleet, decisions):
    """How often each worker is picked, over decisions that differ only in their number."""
    chosen = [policy.pick(request(number), fleet).worker for number in range(decisions)]
    return np.bincount(chosen, minlength=len(fleet.worker_ids))


def evenness(counts):
    """Chi-square of counts against equality, over its mean under chance: about 1 if even."""
    expected = counts.sum() / len(counts)
    return ((counts - expected) ** 2 / expected).sum() / (len(counts) - 1)
