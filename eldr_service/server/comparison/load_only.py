"""What a policy that sees load alone would have done with the same requests, beside what was done.

Each request that is placed is placed a second time, in thought, on the worker with the least load
among the sequences placed there in thought; it ends when it truly does. Both fleets' batches are
predicted to use experts as `marginal-cost` predicts them, and steps to cost what workers' reports
say that they cost (`policies.step_cost`), so that the two differ by where requests are, and nothing
else. Predicted: a policy that decides by the same prediction looks a little better than it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.activation import Counts
from eldr_service.core.booking import Booking
from eldr_service.core.fleet import Fleet
from eldr_service.core.worker import LoadReport, WorkerState
from eldr_service.policies.batches import Batches
from eldr_service.policies.expert_prediction import ExpertPrediction
from eldr_service.policies.packed_use import PackedUse
from eldr_service.policies.step_cost import LearnedStepCost
from eldr_service.routing.call import Known

REMEMBERED_SECONDS = 120.0
MOST_LEARNING = 64
"""Requests whose prefill is kept, to learn from how their decodes differ."""
LOOK_SECONDS = 0.1
"""At least, between two looks at what both fleets hold."""
_ENOUGH_LIVES = 2.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Means over generated tokens of the last minutes: what was done, and by load alone.

    Attributes
    ----------
    requests : int
        That were compared.
    active_experts, active_experts_by_load : float
        Distinct experts per layer that a token's step used.
    step_change : float
        By how much its step was longer than by load alone, as a share; NaN before any reports.
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
    """The comparison for one model, from when it is made.

    Parameters
    ----------
    fleet : Fleet
        The model's, which is only read.
    living : int
        Requests that run already, of which nothing is known.
    """

    def __init__(self, fleet: Fleet, living: int) -> None:
        self._fleet = fleet
        self._cost = LearnedStepCost()
        self._prediction: ExpertPrediction | None = None
        self._ours = self._theirs = Batches(0)
        self._held: dict[tuple[str, int], _Held] = {}
        self._sequences = np.zeros((2, 0), np.int64)  # by row: done, by load
        self._learning = 0
        self._unknown = living
        self._seen = 0
        self._sums = np.zeros(5)  # weight, active experts and steps of both
        self._last = -math.inf
        self._draw = Random(0)

    def placed(self, known: Known, booking: Booking, now: float) -> None:
        """A request was placed; one without counts is taken for the mean request."""
        counts = known.counts if known.declared else None
        if counts is not None and (self._prediction is None or not self._fits(counts, known)):
            self._begin(counts, known.top_k)
        prediction = self._prediction
        if prediction is None:
            return
        self._sum_up(now)
        predicted = known.source.is_predicted
        if counts is not None and known.awaits_signature and not predicted:
            counts = None  # a part, whose experts are not the whole's
        use = PackedUse.of(prediction.predict(counts), None, prediction.shape)
        own = counts is not None and not predicted
        if counts is not None and own:
            prediction.saw_prefill(counts)
        keep = own and self._learning < MOST_LEARNING
        self._learning += keep
        held = _Held(
            use,
            booking.row,
            self._least_loaded(booking.row),
            booking.num_sequences,
            counts.copy() if counts is not None and keep else None,
        )
        self._held[booking.key] = held
        self._add(held, 1)
        self._seen += 1

    def ended(self, booking: Booking, now: float) -> None:
        """A request ended, in both."""
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
        """Active experts per layer of a worker's batch; None where its report is of another batch.

        Batches are taken for the same where their sizes differ by a quarter at most, or by one
        sequence: of a report they are means, and what is booked may not have begun.
        """
        held = int(self._sequences[0][row]) if row < self._sequences.shape[1] else 0
        if not held or self._prediction is None or self._unknown > 0 or report.foreign_sequences:
            return None
        if not abs(report.batch_size - held) <= max(1.0, held / 4):
            return None
        return float(self._ours.active(np.array([row]))[0]) / self._prediction.shape[0]

    def comparison(self) -> Comparison | None:
        """None until requests that were there before are gone, or few beside the rest."""
        weight, *sums = self._sums.tolist()
        if self._seen < _ENOUGH_LIVES * max(self._unknown, len(self._held), 1) or not weight:
            return None
        ours, theirs, step, step_by_load = (value / weight for value in sums)
        change = step / step_by_load - 1 if self._cost.learned else math.nan
        return Comparison(self._seen, ours, theirs, change)

    def _fits(self, counts: Counts, known: Known) -> bool:
        assert self._prediction
        return (counts.shape, known.top_k) == (self._prediction.shape, self._prediction.top_k)

    def _begin(self, counts: Counts, top_k: int) -> None:
        self._prediction = ExpertPrediction(counts.shape, top_k)
        self._ours, self._theirs = Batches(counts.size), Batches(counts.size)
        self._held.clear()
        self._sequences = np.zeros((2, 0), np.int64)
        self._learning = self._seen = 0
        self._sums[:] = 0

    def _least_loaded(self, row: int) -> int:
        """A READY worker's row; ties at random, as traffic may have a rhythm of its own."""
        fleet = self._fleet
        rows = fleet.decode_rows
        rows = rows[fleet.column("state", rows) == WorkerState.READY]
        if not len(rows):
            return row
        self._reach(int(rows.max()) + 1)
        loads = self._sequences[1][rows] / fleet.column("capacity", rows)
        return int(self._draw.choice(rows[loads == loads.min()].tolist()))

    def _reach(self, rows: int) -> None:
        if (more := rows - self._sequences.shape[1]) > 0:
            self._sequences = np.pad(self._sequences, ((0, 0), (0, more)))

    def _add(self, held: _Held, sign: int) -> None:
        times = sign * held.sequences
        self._reach(max(held.row, held.row_by_load) + 1)
        for batches, counted, row in (
            (self._ours, self._sequences[0], held.row),
            (self._theirs, self._sequences[1], held.row_by_load),
        ):
            batches.add(row, held.use, times)
            counted[row] += times

    def _sum_up(self, now: float) -> None:
        """Add what both hold, weighted by the time since the last look and by sequences."""
        elapsed = now - self._last
        if elapsed < LOOK_SECONDS:
            return
        self._last = now
        if not (self._prediction and elapsed < REMEMBERED_SECONDS and self._held):
            return
        layers = self._prediction.shape[0]
        self._sums *= math.exp(-elapsed / REMEMBERED_SECONDS)
        sequences = int(self._sequences[0].sum())
        means = (
            *self._means(self._ours, self._sequences[0], layers),
            *self._means(self._theirs, self._sequences[1], layers),
        )
        ours, step, theirs, step_by_load = means
        weight = elapsed * sequences
        self._sums += weight * np.array([1.0, ours, theirs, step, step_by_load])

    def _means(self, batches: Batches, counted: NDArray[np.int64], layers: int) -> Sequence[float]:
        """Active experts per layer and a step's time, in the mean over sequences."""
        rows = np.flatnonzero(counted > 0)
        n = counted[rows].astype(np.float64)
        active = batches.active(rows) / layers
        cost = self._cost.coefficients
        step = cost.fixed + cost.expert * active + cost.sequence * n
        return float(n @ active / n.sum()), float(n @ step / n.sum())
