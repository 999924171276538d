"""Events of the router that no answer tells."""

from typing import Protocol

from eldr_service.core.booking import Booking
from eldr_service.core.ends import Ended
from eldr_service.core.worker import WorkerState


class Observer(Protocol):
    """Told of events that no answer tells: for metrics and watchers."""

    def ended(self, model: str, booking: Booking, how: Ended) -> None:
        """A booking ended."""

    def signatures_dropped(self, number: int, why: str) -> None:
        """Held signatures were dropped."""

    def worker_changed(self, model: str, row: int, state: WorkerState) -> None:
        """A worker joined, or its state, standing or capture changed; a GONE row is readable."""
