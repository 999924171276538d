"""What a policy that sees load alone would have done with the same requests.

Each placed request is placed a second time, hypothetically, on the worker with the least load of
sequences placed there hypothetically; it ends when it really does. Both fleets' batches are
predicted to use experts as `marginal-cost` predicts them (if it is in force, its own predictions
are used), and steps to cost what workers' reports say (`policies.step_cost`), so that the two
differ only in where requests are. A caveat: a policy that decides by the same prediction looks
slightly better than it is.

A placement and an end are on the path of every call, so they only update sums of what batches use.
The experts are counted at a look, for a part of a large fleet at a time.
"""

import math
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.activation import Counts
from eldr_service.core.booking import Booking
from eldr_service.core.fleet import Fleet
from eldr_service.core.worker import LoadReport, WorkerState
from eldr_service.policies.expert_prediction import ExpertPrediction
from eldr_service.policies.packed_use import PackedUse
from eldr_service.policies.step_cost import LearnedStepCost
from eldr_service.routing.call import Known
from eldr_service.server.comparison.both_fleets import BY_LOAD, DONE, BothFleets

REMEMBERED_SECONDS = 120.0
MOST_LEARNING = 64
"""Requests whose prefill is kept, to learn from how their decodes differ."""
LOOK_SECONDS = 0.5
"""Least time between two looks at what both fleets hold."""
MOST_LOOKED_AT = 128
"""Workers of each fleet per look, up to 3 µs each; the next look continues with the next ones."""
_ENOUGH_LIVES = 2.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Means over tokens generated in the last minutes: as placed, and by load alone.

    Attributes
    ----------
    requests : int
        Requests compared.
    active_experts, active_experts_by_load : float
        Distinct experts per layer that a token's step used.
    step_change : float
        By how much a step was longer than by load alone, as a share; NaN before any reports.
    """

    requests: int
    active_experts: float
    active_experts_by_load: float
    step_change: float


@dataclass(slots=True)
class _Held:
    use: PackedUse
    row: int
    row_by_load: int
    sequences: int
    prefill: Counts | None


class LoadOnly:
    """The comparison for one model, from its creation on.

    Parameters
    ----------
    fleet : Fleet
        The model's fleet, which is only read.
    living : int
        Requests already running, about which nothing is known.
    """

    def __init__(self, fleet: Fleet, living: int) -> None:
        self._fleet = fleet
        self._cost = LearnedStepCost()
        self._prediction: ExpertPrediction | None = None
        self._both = BothFleets(0)
        self._held: dict[tuple[str, int], _Held] = {}
        self._capacity = np.zeros(0)  # by row; 0 without a READY decode worker
        self._loads = np.zeros(0)  # by load alone, by row; inf without a worker
        self._learning = 0
        self._unknown = living
        self._seen = 0
        # Per fleet: sequences, and weighted by them active experts and step times.
        self._sums = np.zeros((2, 3))
        self._last = -math.inf
        self._next_row = 0
        self._draw = Random(0)

    def placed(
        self, known: Known, booking: Booking, now: float, use: PackedUse | None = None
    ) -> None:
        """A request was placed, for which the policy may have predicted a `use`.

        Otherwise it is predicted here; one without counts is treated as the mean request.
        """
        counts = known.counts if known.declared else None
        if counts is not None and (self._prediction is None or not self._fits(counts, known)):
            self._begin(counts, known.top_k)
        prediction = self._prediction
        if prediction is None:
            return
        self._sum_up(now)
        prefill = None
        if use is None or use.shape != prediction.shape:
            predicted = known.source.is_predicted
            if known.awaits_signature and not predicted:
                counts = None  # partial counts would misrepresent the whole
            use = PackedUse.of(prediction.predict(counts), None, prediction.shape)
            if counts is not None and not predicted:
                prediction.saw_prefill(counts)
                if self._learning < MOST_LEARNING:
                    prefill = counts.copy()
                    self._learning += 1
        row = self._least_loaded(booking.row)
        held = _Held(use, booking.row, row, booking.num_sequences, prefill)
        self._held[booking.key] = held
        self._add(held, 1)
        self._seen += 1

    def completed(self, booking: Booking, use: PackedUse) -> None:
        """A request's whole signature has come, and its policy has predicted its use again."""
        held = self._held.get(booking.key)
        if held and use.shape == held.use.shape:
            self._add(held, -1)
            held.use = use
            self._add(held, 1)

    def ended(self, booking: Booking, now: float) -> None:
        """A request ended, in both fleets."""
        held = self._held.pop(booking.key, None)
        if held is None:
            self._unknown -= 1
            return
        self._sum_up(now)
        self._add(held, -1)
        if held.prefill is not None:
            self._learning -= 1
            decode = booking.decode_counts
            if self._prediction and decode is not None and decode.shape == held.prefill.shape:
                self._prediction.saw_decode(held.prefill, decode)

    def reported(self, worker_id: str, report: LoadReport) -> None:
        """Learn what steps cost."""
        self._cost.learn(worker_id, report)

    def predicted(self, row: int, report: LoadReport) -> float | None:
        """Active experts per layer of a worker's batch; None if its report is on another batch.

        Batches are treated as the same if their sizes differ by at most a quarter, or by one
        sequence: reported sizes are means, and what is booked may not have begun.
        """
        sequences = self._both.sequences[DONE]
        held = int(sequences[row]) if row < len(sequences) else 0
        if not held or self._prediction is None or self._unknown > 0 or report.foreign_sequences:
            return None
        if not abs(report.batch_size - held) <= max(1.0, held / 4):
            return None
        return float(self._both.active(DONE, np.array([row]))[0]) / self._prediction.shape[0]

    def comparison(self) -> Comparison | None:
        """None until earlier requests are gone, or few compared with the rest."""
        if self._seen < _ENOUGH_LIVES * max(self._unknown, len(self._held), 1):
            return None
        weights = self._sums[:, :1]
        if not weights.all():
            return None
        (active, step), (active_by_load, step_by_load) = (self._sums[:, 1:] / weights).tolist()
        change = step / step_by_load - 1 if self._cost.learned else math.nan
        return Comparison(self._seen, active, active_by_load, change)

    def _fits(self, counts: Counts, known: Known) -> bool:
        assert self._prediction
        return (counts.shape, known.top_k) == (self._prediction.shape, self._prediction.top_k)

    def _begin(self, counts: Counts, top_k: int) -> None:
        self._prediction = ExpertPrediction(counts.shape, top_k)
        self._both = BothFleets(counts.size)
        self._held.clear()
        self._learning = self._seen = 0
        self._sums[:] = 0
        self._last = -math.inf

    def _look_at_workers(self) -> None:
        """Update which workers exist, and their capacities."""
        fleet = self._fleet
        rows = fleet.decode_rows
        rows = rows[fleet.column("state", rows) == WorkerState.READY]
        self._both.reach(int(rows.max(initial=-1)) + 1)
        by_load = self._both.sequences[BY_LOAD]
        self._capacity = np.zeros(len(by_load))
        self._capacity[rows] = fleet.column("capacity", rows)
        self._loads = np.full(len(by_load), np.inf)
        self._loads[rows] = by_load[rows] / self._capacity[rows]

    def _least_loaded(self, row: int) -> int:
        """The row of the least loaded READY worker; ties at random, as traffic may be periodic."""
        loads = self._loads
        least = loads.min(initial=np.inf)
        if least == np.inf:
            return row
        return int(self._draw.choice((loads == least).nonzero()[0]))

    def _add(self, held: _Held, sign: int) -> None:
        row = held.row_by_load
        self._both.add(held.row, row, held.use, sign * held.sequences)
        if row < len(self._capacity) and self._capacity[row]:
            self._loads[row] = self._both.sequences[BY_LOAD, row] / self._capacity[row]

    def _sum_up(self, now: float) -> None:
        """Add what both fleets hold, weighted by the time since the last look and by sequences."""
        elapsed = now - self._last
        if elapsed < LOOK_SECONDS:
            return
        self._last = now
        self._look_at_workers()
        if not (self._prediction and elapsed < REMEMBERED_SECONDS and self._held):
            return
        self._sums *= math.exp(-elapsed / REMEMBERED_SECONDS)
        for which in (DONE, BY_LOAD):
            self._sums[which] += elapsed * self._looked_at(which, self._prediction.shape[0])
        self._next_row += MOST_LOOKED_AT
        if self._next_row >= len(self._capacity):
            self._next_row = 0

    def _looked_at(self, which: int, layers: int) -> NDArray[np.float64]:
        """Sequences, and sums over them of active experts per layer and of step time."""
        part = self._both.sequences[which, self._next_row : self._next_row + MOST_LOOKED_AT]
        rows = part.nonzero()[0]
        n = part[rows].astype(np.float64)
        active = self._both.active(which, rows + self._next_row) / layers
        cost = self._cost.coefficients
        step = cost.fixed + cost.expert * active + cost.sequence * n
        return np.array([n.sum(), n @ active, n @ step])
