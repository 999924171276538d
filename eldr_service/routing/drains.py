"""Drains of one model's workers: when they end, and what is to go then."""

from dataclasses import dataclass
from math import inf

from eldr_service.core.booking import Booking, BookingTable


@dataclass(slots=True)
class Drain:
    """One worker's drain. Times in seconds of the caller's clock.

    Attributes
    ----------
    until : float
        When bookings that are left end; infinite for never.
    remove : bool
        The worker is forgotten at the end.
    wall_until : float
        `until` as Unix time, for other runs and replicas; 0 for never.
    told : bool
        That nothing is booked on it any more has been said.
    """

    until: float = inf
    remove: bool = False
    wall_until: float = 0.0
    told: bool = False


class Drains:
    """Which workers drain, by row."""

    def __init__(self) -> None:
        self._of_row: dict[int, Drain] = {}

    def __contains__(self, row: int) -> bool:
        return row in self._of_row

    def begin(
        self, row: int, until: float = inf, remove: bool = False, wall_until: float = 0.0
    ) -> None:
        """A worker drains from now on, or does otherwise than before."""
        self._of_row[row] = Drain(until, remove, wall_until)

    def forget(self, row: int) -> None:
        """The worker's life is over."""
        self._of_row.pop(row, None)

    def of(self, row: int) -> Drain | None:
        """A worker's drain; None where it does not drain."""
        return self._of_row.get(row)

    def overdue(self, bookings: BookingTable, now: float) -> list[Booking]:
        """What is booked on workers whose deadline is there; the caller ends it."""
        rows = [row for row, drain in self._of_row.items() if drain.until <= now]
        return [booking for row in rows for booking in bookings.on_row(row)]

    def over(self, bookings: BookingTable) -> list[int]:
        """Rows on which nothing is booked any more, each once."""
        ended = [
            row
            for row, drain in self._of_row.items()
            if not drain.told and not bookings.any_on_row(row)
        ]
        for row in ended:
            self._of_row[row].told = True
        return ended

    def to_go(self) -> list[int]:
        """Rows of drained workers that are to be forgotten, until they are."""
        return [row for row, drain in self._of_row.items() if drain.told and drain.remove]
