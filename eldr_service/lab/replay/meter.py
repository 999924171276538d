"""Predicts how many experts the workers' batches use, by one measure for all policies."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.activation import Counts
from eldr_service.core.booking import Booking
from eldr_service.core.ends import Ended
from eldr_service.core.worker import WorkerState
from eldr_service.policies.experts import ExpertsInUse
from eldr_service.policies.policy import SignatureParameters


class Meter:
    """Predicts like the policy `marginal-cost`; observes the ends of a model's bookings."""

    def __init__(self) -> None:
        self._experts = ExpertsInUse(SignatureParameters().min_coverage)
        self._counts: dict[str, Counts | None] = {}

    def booked(self, booking: Booking, counts: Counts | None) -> None:
        """A request with these counts [num_layers, num_experts] was booked."""
        self._counts[booking.request_id] = counts
        self._experts.put_in(replace(booking, kept=counts))

    def completed(self, booking: Booking, counts: Counts) -> None:
        """A booking has its complete signature."""
        self._counts[booking.request_id] = counts
        self._experts.put_in_again(replace(booking, kept=counts))

    def active_experts(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Distinct experts per layer that a step of each row's batch uses; NaN without counts."""
        experts = self._experts.known
        return np.full(len(rows), np.nan) if experts is None else experts.active(rows)

    # Observer

    def ended(self, model: str, booking: Booking, how: Ended) -> None:
        """A booking ended."""
        counts = self._counts.pop(booking.request_id, None)
        self._experts.take_out(replace(booking, kept=counts))

    def signatures_dropped(self, number: int, why: str) -> None:
        """Nothing to do: none are held."""

    def worker_changed(self, model: str, row: int, state: WorkerState) -> None:
        """Nothing to do: its bookings end by themselves."""
