"""Finds decode workers that are slower than their peers, by their own step reports.

A worker's pace is its step time relative to what its peers (same group and `hardware` label) need
for the same batch and experts. `step_cost` learns what a step costs them all and each one's speed
relative to that; the pace is that speed relative to the peers' median. A worker whose pace stays at
`SLOW` or above for `PATIENCE` reports is slow until it falls to `RECOVERED`: policies see its load
multiplied by the square of its pace, up to a limit. The square, because a step without a batch
takes time too: half the sequences do not make a step half as long. Beyond `OUT`, a worker is taken
only if no other can be.

A worker without steps gives no information on its pace, so the estimate fades with a half-life of a
minute; then it gets requests again, and its first steps tell.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from eldr_service.core.worker import LoadReport, WorkerSpec
from eldr_service.policies.step_cost import LearnedStepCost

HARDWARE = "hardware"
SLOW, RECOVERED = 1.4, 1.2
OUT, BACK = 4.0, 3.0
PATIENCE = 20
MANY = 256
"""Peers from which on every other report is used, then every third: each costs 80 µs."""
_FADE_SECONDS = 60.0
_MEDIAN_SECONDS = 1.0
_LEAST_CHANGE = 0.25  # of a relief; smaller changes are not worth a log record


@dataclass(slots=True)
class _Worker:
    """What is known about one life of a worker."""

    worker_id: str
    incarnation: int
    peers: Hashable
    reports: int = 0  # with steps
    above: int = 0  # of them the latest consecutive ones at SLOW or above
    stepped_at: float = 0.0
    pace: float = 1.0
    slow: bool = False
    out: bool = False
    relief: float = 1.0


class _Median(NamedTuple):
    """The median of `number` workers' speeds at some time."""

    since: float
    workers: int
    speed: float


_NONE = _Median(-np.inf, 0, 1.0)


class Pace:
    """The paces of one model's workers, by row.

    Parameters
    ----------
    most_relief : float
        The largest factor on a load; 1 leaves all loads and workers unchanged.
    """

    def __init__(self, most_relief: float) -> None:
        self._most_relief = most_relief
        self._costs: dict[Hashable, LearnedStepCost] = {}
        self._medians: dict[Hashable, _Median] = {}
        self._of_row: dict[int, _Worker] = {}

    def of(self, row: int) -> float:
        """A worker's pace; 0 if unknown."""
        worker = self._of_row.get(row)
        return worker.pace if worker and worker.reports else 0.0

    def relief(self, row: int) -> tuple[float, bool]:
        """The factor on a worker's load, and whether it is a last resort."""
        worker = self._of_row.get(row)
        return (worker.relief, worker.out) if worker else (1.0, False)

    def forget(self, row: int) -> None:
        """A worker's life is over; with the last of a kind, the kind's learned costs go too."""
        worker = self._of_row.pop(row, None)
        if worker:
            self._leave(worker)

    def _leave(self, worker: _Worker) -> None:
        if all(other.peers != worker.peers for other in self._of_row.values()):
            self._costs.pop(worker.peers, None)
            self._medians.pop(worker.peers, None)

    def reported(self, row: int, spec: WorkerSpec, report: LoadReport, now: float) -> None:
        """Take in a report."""
        active = report.step_active_experts or report.active_experts
        steps = report.batch_size > 0 and report.step_seconds > 0
        worker = self._of_row.get(row)
        if worker is None or worker.incarnation != report.incarnation:
            if not steps:
                return
            worker = _Worker(spec.worker_id, report.incarnation, None)
            self._of_row[row] = worker
        if steps and report.number % (1 + self._medians.get(worker.peers, _NONE).workers // MANY):
            return
        if steps:
            peers = spec.group, spec.labels.get(HARDWARE, ""), active > 0
            if peers != worker.peers:
                before = replace(worker)
                worker.peers, worker.reports, worker.above = peers, 0, 0
                self._leave(before)
            # If no experts are known, assume equal ones: a step then depends on its batch alone.
            costs = self._costs.setdefault(peers, LearnedStepCost())
            costs.learn_step(spec.worker_id, report.incarnation, active or 1.0, report)
            worker.reports += 1
            worker.stepped_at = now
        self._judge(worker, now, steps)

    def _judge(self, worker: _Worker, now: float, steps: bool) -> None:
        (speed,) = self._costs[worker.peers].speeds((worker.worker_id,)).tolist()
        idle = 0.5 ** ((now - worker.stepped_at) / _FADE_SECONDS)
        worker.pace = 1.0 + (speed / self._median(worker.peers, now) - 1.0) * idle
        if steps:
            worker.above = worker.above + 1 if worker.pace >= SLOW else 0
        if worker.slow:
            worker.slow = worker.pace > RECOVERED
            worker.above *= worker.slow  # else the same reports would make it slow again
        else:
            worker.slow = worker.above >= PATIENCE and worker.reports >= 2 * PATIENCE
        worker.slow &= self._most_relief > 1
        worker.out = worker.slow and worker.pace >= (BACK if worker.out else OUT)
        relief = min(worker.pace**2, self._most_relief) if worker.slow else 1.0
        if abs(relief - worker.relief) >= _LEAST_CHANGE or relief in (1.0, self._most_relief):
            worker.relief = relief

    def _median(self, peers: Hashable, now: float) -> float:
        """The lower median: of two workers, the other is measured by the faster."""
        known = self._medians.get(peers, _NONE)
        if now - known.since >= _MEDIAN_SECONDS:
            ids = tuple(w.worker_id for w in self._of_row.values() if w.peers == peers)
            speeds = np.sort(self._costs[peers].speeds(ids))
            median = float(speeds[(len(speeds) - 1) // 2])
            known = self._medians[peers] = _Median(now, len(ids), median)
        return known.speed
