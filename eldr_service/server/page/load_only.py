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
        self._sequences: tuple[dict[int, int], dict[int, int]] = {}, {}  # by row: done, by load
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
        self._sequences = {}, {}
        self._learning = self._seen = 0
        self._sums[:] = 0

    def _least_loaded(self, row: int) -> int:
        """A READY worker's row; ties at random, as traffic may have a rhythm of its own."""
        by_load, fleet = self._sequences[1], self._fleet
        ready = [r for r in fleet.decode_rows.tolist() if fleet.state(r) is WorkerState.READY] or [
            row
        ]
        loads = [by_load.get(r, 0) / fleet.spec(r).capacity_sequences for r in ready]
        least = min(loads)
        return int(
            self._draw.choice([r for r, load in zip(ready, loads, strict=True) if load == least])
        )

    def _add(self, held: _Held, sign: int) -> None:
        times = sign * held.sequences
        for batches, counted, row in (
            (self._ours, self._sequences[0], held.row),
            (self._theirs, self._sequences[1], held.row_by_load),
        ):
            batches.add(row, held.use, times)
            counted[row] = counted.get(row, 0) + times

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
        sequences = sum(self._sequences[0].values())
        means = (
            *self._means(self._ours, self._sequences[0], layers),
            *self._means(self._theirs, self._sequences[1], layers),
        )
        ours, step, theirs, step_by_load = means
        weight = elapsed * sequences
        self._sums += weight * np.array([1.0, ours, theirs, step, step_by_load])

    def _means(self, batches: Batches, counted: dict[int, int], layers: int) -> Sequence[float]:
        """Active experts per layer and a step's time, in the mean over sequences."""
        rows = [row for row, number in counted.items() if number > 0]
        n = np.array([counted[row] for row in rows], np.float64)
        active = batches.active(np.array(rows, np.int64)) / layers
        cost = self._cost.coefficients
        step = cost.fixed + cost.expert * active + cost.sequence * n
        return float(n @ active / n.sum()), float(n @ step / n.sum())
