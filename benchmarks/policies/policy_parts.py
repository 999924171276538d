"""What each part of `marginal-cost` is worth, in the cells of `benchmarks.policies.cells`.

    python -m benchmarks.policies.policy_parts [--cell TEXT ...] [--seeds N] [--all-driven]

Each variant lacks one part: *no decode counts*, predictions from prefills alone; *no neighbours*,
no residuals of similar finished requests; *own recording forgotten*, none of the request's own
recording, which a simulation may have run before; *priced now alone*, no cost to future requests;
*no remaining*, all requests weigh alike; *no tail*, no bound on the chosen step; *no reports*,
costs as before the first; *not packed*, each expert's own probability kept. Others know more than
any router can: *arrivals known*, the experts that an arriving request's decode actually uses; *held
known*, those of the requests that workers hold; *all known*, both.

Prints the mean TPOT's change against the best of the four load-only policies, with 95% intervals
from paired seeds; writes build/bench/policy_parts.json.
"""

import argparse
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.policies.cells import CELLS, OUTPUT_TOKENS, Cell, How, study_of
from benchmarks.policies.goals import MEAN, PRICED, gain
from benchmarks.policies.known_use import TrueUse, knowing
from benchmarks.shared_data import need_recordings
from benchmarks.written import written
from eldr_service.core.activation import Counts
from eldr_service.core.booking import Booking
from eldr_service.core.ends import Ended
from eldr_service.core.worker import LoadReport
from eldr_service.lab.simulation.comparison import LOAD_ONLY
from eldr_service.lab.simulation.simulate import simulate
from eldr_service.lab.simulation.study import log_to_stderr
from eldr_service.policies.batches import Batches
from eldr_service.policies.expert_prediction import ExpertPrediction
from eldr_service.policies.experts import Experts, ExpertsInUse
from eldr_service.policies.marginal_cost import MarginalCost, MarginalCostParameters
from eldr_service.policies.packed_use import PackedUse
from eldr_service.policies.policy import Policy
from eldr_service.policies.registry import create
from eldr_service.policies.remaining import Remaining

STDERR = Console(stderr=True)


class NoDecodeCounts(MarginalCost):
    def on_ended(self, booking: Booking, ended: Ended) -> None:
        super().on_ended(replace(booking, decode_counts=None), ended)


class NoReports(MarginalCost):
    def on_reported(self, worker_id: str, report: LoadReport) -> None:
        """Costs stay as before the first report."""


class OtherParts(ExpertsInUse):
    """Keeps batches, or predicts, in another way."""

    def __init__(self, batches: type[Batches], prediction: type[ExpertPrediction]) -> None:
        super().__init__(MarginalCostParameters().min_coverage)
        self._parts = batches, prediction

    def _known_for(self, counts: Counts, top_k: int) -> Experts:
        if self.known is None or not self.known.fits(counts, top_k):
            batches, prediction = self._parts
            return Experts(prediction(counts.shape, top_k), batches(counts.size))
        return self.known


class NowAlone(Batches):
    """Expects no future requests."""

    def growth_at_mean(self, rows: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        return np.zeros(len(rows))


class NoNeighbours(ExpertPrediction):
    """Predicts without residuals of individual finished requests."""

    def predict(self, counts: np.ndarray | None) -> np.ndarray:
        self._scales[:] = 0
        return super().predict(counts)


class OwnForgotten(ExpertPrediction):
    """Remembers no finished request with exactly the same prefill."""

    def __init__(self, shape: tuple[int, int], top_k: int) -> None:
        super().__init__(shape, top_k)
        self._prefill_of: dict[int, bytes] = {}

    def saw_decode(self, prefill: np.ndarray, decode: np.ndarray) -> None:
        self._prefill_of[self._decodes % len(self._residuals)] = prefill.tobytes()
        super().saw_decode(prefill, decode)

    def predict(self, counts: np.ndarray | None) -> np.ndarray:
        if counts is None:
            return super().predict(counts)
        asked = counts.tobytes()
        own = [place for place, prefill in self._prefill_of.items() if prefill == asked]
        kept = self._sketches[own].copy()
        self._sketches[own] = 0  # least similar of all
        try:
            return super().predict(counts)
        finally:
            self._sketches[own] = kept


def with_parts(
    batches: type[Batches] = Batches, prediction: type[ExpertPrediction] = ExpertPrediction
) -> MarginalCost:
    policy = MarginalCost()
    policy.experts = OtherParts(batches, prediction)
    return policy


class WholeUse(PackedUse):
    """Each expert's own value, in `each`."""

    __slots__ = ("each",)


class WholeBatches(Batches):
    """Adds each expert's own probability, not the mean of its range."""

    def add(self, row: int, use: WholeUse, times: int) -> None:  # type: ignore[override]
        self.reach(row + 1)
        self._requests[row] += times
        self._sums[row] += times * use.each
        unused = np.exp(-self._sums[row] / 2048)
        self._unused[row] = np.rint(127 * unused)
        self._active[row] = (1 - unused).sum()
        mean = self._requests[self._requests > 0].mean() if self._requests.any() else 0
        self._unused_at_mean[row] = np.rint(127 * unused ** (mean / max(self._requests[row], 1)))


class WholeExperts(ExpertsInUse):
    """Packs nothing."""

    def _hold(self, booking: Booking, probabilities: np.ndarray, learns: bool) -> None:
        assert self.known is not None
        batches = self.known.batches
        if not isinstance(batches, WholeBatches):
            self.known.batches = batches = WholeBatches(len(probabilities))
        use = WholeUse(np.zeros(0, np.uint8), self.known.prediction.shape, learns)
        use.each = np.rint(-np.log1p(-np.minimum(probabilities, 1 - 1e-6)) * 2048).astype(np.int32)
        batches.add(booking.row, use, booking.num_sequences)
        self.known.held[booking.key] = use


class NotPacked(MarginalCost):
    def __init__(self) -> None:
        super().__init__()
        self.experts = WholeExperts(self.parameters.min_coverage)


class AllRemains(Remaining):
    def by_row(self, num_rows: int):
        booked, _ = super().by_row(num_rows)
        return booked, booked


class NoRemaining(MarginalCost):
    def __init__(self) -> None:
        super().__init__()
        self.remaining = AllRemains()


PARTS: dict[str, Callable[[], Policy]] = {
    "whole": MarginalCost,
    "no decode counts": NoDecodeCounts,
    "no neighbours": lambda: with_parts(prediction=NoNeighbours),
    "own recording forgotten": lambda: with_parts(prediction=OwnForgotten),
    "priced now alone": lambda: with_parts(batches=NowAlone),
    "no remaining": NoRemaining,
    "no tail": lambda: MarginalCost(MarginalCostParameters(tail=10)),
    "no reports": NoReports,
    "not packed": NotPacked,
}


KNOWN = {
    "arrivals known": {"arriving": True, "held": False},
    "held known": {"arriving": False, "held": True},
    "all known": {"arriving": True, "held": True},
}
COLUMNS = (*PARTS, *KNOWN)


def run(cell: Cell, how: How, seed: int) -> dict[str, dict[str, float]]:
    """Policy -> figure -> value with a seed."""
    study = study_of(cell, (), how)
    workload = study.workload(seed)
    made = {name: create(name, {}) for name in LOAD_ONLY}
    made |= {name: make() for name, make in PARTS.items()}
    use = TrueUse(workload, OUTPUT_TOKENS)
    made |= {name: knowing(use, **known) for name, known in KNOWN.items()}
    return {
        name: simulate(workload, policy, study.deployment).figures()
        for name, policy in made.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.policies.policy_parts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cell", action="append", help="only cells whose name has this in it")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of arrivals")
    parser.add_argument("--all-driven", action="store_true", help="drive the fitted half too")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    need_recordings()
    how = How(options.seeds, options.duration, options.all_driven)
    cells = [c for c in CELLS if any(part in str(c) for part in options.cell or [""])]
    tasks = [(cell, how, seed) for cell in cells for seed in range(options.seeds)]
    with ProcessPoolExecutor(options.jobs, initializer=log_to_stderr) as pool:
        runs = pool.map(run, *zip(*tasks, strict=True))
        each = list(track(runs, "simulating", len(tasks), console=STDERR))
    table = Table("CELL", *COLUMNS, title=f"{PRICED}: mean TPOT against the best load-only policy")
    document = {}
    for cell in cells:
        found = [one for (of, *_), one in zip(tasks, each, strict=True) if of == cell]
        values = {policy: {MEAN: [one[policy][MEAN] for one in found]} for policy in found[0]}
        gains = {part: gain(values, part, MEAN) for part in COLUMNS}
        table.add_row(str(cell), *map(str, gains.values()))
        document[str(cell)] = {part: asdict(one) for part, one in gains.items()}
    Console(width=None if sys.stdout.isatty() else 190).print(table)
    written("policy_parts", {"how": asdict(how), "cells": document})


if __name__ == "__main__":
    main()
