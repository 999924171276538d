"""Drains of one model's workers: when they end, and which workers are then removed."""

from dataclasses import dataclass
from math import inf

from eldr_service.core.booking import Booking, BookingTable


@dataclass(slots=True)
class Drain:
    """One worker's drain. Times in seconds of the caller's clock.

    Attributes
    ----------
    until : float
        When the remaining bookings end; infinite for never.
    remove : bool
        Whether the worker is removed at the end.
    wall_until : float
        `until` as Unix time, for other runs and replicas; 0 for never.
    told : bool
        Whether it was reported that nothing is booked on it any more.
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
        """A worker drains from now on, or its drain changes."""
        self._of_row[row] = Drain(until, remove, wall_until)

    def forget(self, row: int) -> None:
        """The worker's life is over."""
        self._of_row.pop(row, None)

    def of(self, row: int) -> Drain | None:
        """A worker's drain; None if it does not drain."""
        return self._of_row.get(row)

    def overdue(self, bookings: BookingTable, now: float) -> list[Booking]:
        """Bookings on workers whose deadline has come; the caller ends them."""
        rows = [row for row, drain in self._of_row.items() if drain.until <= now]
        return [booking for row in rows for booking in bookings.on_row(row)]

    def over(self, bookings: BookingTable) -> list[int]:
        """Rows on which nothing is booked any more, once each."""
        ended = [
            row
            for row, drain in self._of_row.items()
            if not drain.told and not bookings.any_on_row(row)
        ]
        for row in ended:
            self._of_row[row].told = True
        return ended

    def to_go(self) -> list[int]:
        """Rows of drained workers to be removed, until they are."""
        return [row for row, drain in self._of_row.items() if drain.told and drain.remove]
