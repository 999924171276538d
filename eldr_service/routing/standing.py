"""Standing of workers relative to each other: which are avoided, and whose load is relieved.

Changes are written to the fleet's rows at defined moments (a report, a tick), so that a decision
depends on no clock, and a replay on no estimate.
"""

import math
from dataclasses import dataclass

import numpy as np

from eldr_service.core.flapping import Flapping
from eldr_service.core.fleet import Fleet
from eldr_service.core.worker import Avoidance, LoadReport, WorkerRole
from eldr_service.routing.pace import Pace

MOST_FAILURES = 3
"""Failures in a row: one may be the request's own fault, or its prefill's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingLimits:
    """When workers are avoided.

    Attributes
    ----------
    suspect_after : float
        Seconds of silence after which a worker that reports, or has a time to live, is suspect;
        also how long a worker that fails its requests is, unless it is heard of earlier.
    hold_down : float
        The longest time in seconds that a flapping worker is held down; 0 for never.
    relief : float
        The largest factor on the load of a worker that is slower than its peers; 1 for none.
    """

    suspect_after: float = 10.0
    hold_down: float = 60.0
    relief: float = 4.0


class Standing:
    """The standing of one model's workers.

    Each method returns the rows whose standing changed.
    """

    def __init__(self, fleet: Fleet, limits: StandingLimits) -> None:
        self._fleet = fleet
        self._limits = limits
        self._flapping = Flapping(limits.hold_down)
        self._pace = Pace(limits.relief)
        self._failures: dict[int, int] = {}  # consecutive failed requests, by the worker's row
        self._failing: dict[int, float] = {}  # until when, by row
        self._same_until = -math.inf  # unless something happens, or a worker leaves
        self._workers = 0

    def joined(self, row: int, now: float) -> list[int]:
        """A worker began a life."""
        self._pace.forget(row)
        self._failures.pop(row, None)
        self._failing.pop(row, None)
        self._hold_down(row, self._flapping.joined(self._fleet.spec(row).worker_id, now), now)
        return self._judge(np.array([row]), now)

    def left_in_order(self, row: int) -> None:
        """A worker leaves by an operator's command, or after a drain."""
        self._flapping.forget(self._fleet.spec(row).worker_id)

    def heard(self, row: int, now: float) -> list[int]:
        """A worker gave a sign of life, possibly its return."""
        if self._fleet.avoidance(row) is Avoidance.SUSPECT:
            self._returned(row, now)
        return self._judge(np.array([row]), now)

    def ended(self, row: int, failed: bool, now: float) -> list[int]:
        """A worker failed a request, or completed it."""
        if not failed:
            self._failures.pop(row, None)
            if self._failing.pop(row, None) is None:
                return []
        else:
            self._failures[row] = self._failures.get(row, 0) + 1
            if self._failures[row] < MOST_FAILURES or row in self._failing:
                return []
            self._failing[row] = now + self._limits.suspect_after
        return self._judge(np.array([row]), now)

    def reported(self, row: int, report: LoadReport, now: float) -> list[int]:
        """A worker's report was taken in."""
        spec = self._fleet.spec(row)
        if spec.role is WorkerRole.DECODE:
            self._pace.reported(row, spec, report, now)
            self._fleet.set_pace(row, self._pace.of(row))
        return self.heard(row, now)

    def tick(self, now: float) -> list[int]:
        """Time passed."""
        if now < self._same_until and len(self._fleet) == self._workers:
            return []
        for row in self._fleet.rows() if self._failing else ():
            if self._failing.get(row, now + 1) <= now:
                self._returned(row, now)
        rows = np.fromiter(self._fleet.rows(), np.int64, len(self._fleet))
        moved = self._judge(rows, now)
        moments = (
            self._fleet.column("heard_at", rows) + self._limits.suspect_after,
            self._fleet.column("held_down_until", rows),
            np.array([*self._failing.values(), np.inf]),
        )
        self._same_until = min(m[m >= now].min(initial=np.inf) for m in moments)
        self._workers = len(rows)
        return moved

    def _returned(self, row: int, now: float) -> None:
        if self._failing.pop(row, None):
            del self._failures[row]
        worker_id = self._fleet.spec(row).worker_id
        self._hold_down(row, self._flapping.returned(worker_id, now), now)

    def _hold_down(self, row: int, seconds: float, now: float) -> None:
        if seconds:
            self._fleet.hold_down(row, now + seconds)

    def _judge(self, rows: np.ndarray[tuple[int], np.dtype[np.int64]], now: float) -> list[int]:
        fleet = self._fleet
        self._same_until = -math.inf
        before = fleet.column("avoidance", rows)
        suspect = now - fleet.column("heard_at", rows) > self._limits.suspect_after
        if self._failing:
            suspect |= np.isin(rows, list(self._failing))
        held_down = fleet.column("held_down_until", rows) > now
        reliefs = [self._pace.relief(row) for row in rows.tolist()]
        relief = np.array([factor for factor, _ in reliefs])
        slow = np.array([out for _, out in reliefs], dtype=np.bool_)
        after = np.select(
            [suspect, held_down, slow],
            [Avoidance.SUSPECT, Avoidance.HELD_DOWN, Avoidance.SLOW],
            Avoidance.NONE,
        )
        changed = (after != before) | (relief != np.maximum(fleet.column("relief", rows), 1.0))
        moved = np.flatnonzero(changed).tolist()
        for i in moved:
            fleet.set_standing(int(rows[i]), Avoidance(int(after[i])), float(relief[i]))
        return [int(rows[i]) for i in moved]
