"""`marginal-cost` in the cells of `benchmarks.policies.cells`, its parts taken away one by one.

    python -m benchmarks.policies.policy_parts [--parts] [--cell TEXT ...] [--seeds N] [--held-out]

*locality-band* is the reference, and *true price* what the plain price would do if it knew every
request's decode and the engines' costs: ``step with the request + expert x D x n``. *taught* has
learned from the half that the partition was fitted on, and learns no more: the simulator's requests
come again, and what was learned of a request itself would help it the next time. --parts adds, each
without one part: decode counts, remaining tokens, the partition, the tail, reports of costs,
the packing of what bookings keep.

Prints each policy's change against the best of the four load-only policies, with 95% intervals from
paired seeds, and whether `marginal-cost` reaches its goals; writes build/bench/policy_parts.json.
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

from benchmarks.policies.cells import CELLS, DEEPSEEK, GPT_OSS, Cell, How, study_of
from benchmarks.policies.goals import BAND, FIGURES, GOALS, MEAN, PRICED, Values, gain, judge
from benchmarks.shared_data import need_recordings
from benchmarks.written import written
from eldr_service.core.booking import Booking
from eldr_service.core.decision import Decision, FleetSnapshot, RequestView
from eldr_service.core.ends import Ended
from eldr_service.core.partition import Partition
from eldr_service.core.worker import LoadReport
from eldr_service.fitting import fit_partition
from eldr_service.lab.simulation.comparison import LOAD_ONLY
from eldr_service.lab.simulation.simulate import MODEL, simulate
from eldr_service.lab.simulation.study import log_to_stderr
from eldr_service.lab.simulation.workload import Workload
from eldr_service.policies.batches import Batches
from eldr_service.policies.experts import Experts, ExpertsInUse
from eldr_service.policies.marginal_cost import MarginalCost, MarginalCostParameters
from eldr_service.policies.packed_use import PackedUse
from eldr_service.policies.policy import Policy
from eldr_service.policies.registry import create
from eldr_service.policies.remaining import Remaining

STDERR = Console(stderr=True)
ALL_CELLS = (*CELLS, Cell(*DEEPSEEK, 8, 120), Cell(*GPT_OSS, 8, 75))


class NoDecodeCounts(MarginalCost):
    def on_ended(self, booking: Booking, ended: Ended) -> None:
        super().on_ended(replace(booking, decode_counts=None), ended)


class NoReports(MarginalCost):
    def on_reported(self, worker_id: str, report: LoadReport) -> None:
        """Costs stay as they are before any report."""


class NoPartition(MarginalCost):
    def pick(self, request: RequestView, fleet: FleetSnapshot) -> Decision:
        return super().pick(request._replace(signature=None), fleet)


class WholeUse(PackedUse):
    """Each expert by itself."""

    __slots__ = ("each",)


class WholeBatches(Batches):
    """Adds each expert's own probability, not the mean of its range."""

    def add(self, row: int, use: WholeUse, times: int) -> None:  # type: ignore[override]
        self.reach(row + 1)
        self._sums[row] += times * use.each
        unused = np.exp(-self._sums[row] / 2048)
        self._unused[row] = np.rint(127 * unused)
        self._active[row] = (1 - unused).sum()


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


class Taught(MarginalCost):
    """Has learned from a workload's fitted half."""

    def __init__(self, workload: Workload, output_tokens: int) -> None:
        super().__init__()
        recording = workload.recording
        known = replace(workload, driven=workload.fitted)
        prefills = [known.prefill_counts(i).counts for i in range(len(known.driven))]
        experts = self.experts.known = Experts.of(prefills[0], recording.geometry.top_k)
        prediction = experts.prediction
        for prefill in prefills:
            prediction.saw_prefill(prefill)
        for i, prefill in enumerate(prefills):
            prediction.saw_decode(prefill, known.decode_counts(i, output_tokens).counts)
        prediction.saw_prefill = prediction.saw_decode = lambda *_: None  # type: ignore


class TruePrice(Policy):
    """The price alone, of the decode's own experts."""

    name = "true-price"
    description = "for evaluation: the plain price, knowing what is to come"
    needs_counts = keeps_counts = True

    def __init__(self, workload: Workload, output_tokens: int, expert_s: float) -> None:
        super().__init__()
        self._uses = {}
        for i in range(len(workload.driven)):
            used = workload.decode_counts(i, output_tokens).counts / output_tokens
            prefill = workload.prefill_counts(i).counts.tobytes()
            self._uses[prefill] = used.ravel().astype(np.float32)
        self._expert_s = expert_s
        self._batches = Batches(workload.recording.geometry.size)
        self._held: dict[tuple[str, int], PackedUse] = {}

    def pick(self, request: RequestView, fleet: FleetSnapshot) -> Decision:
        self._batches.reach(int(fleet.rows.max()) + 1)
        assert request.counts is not None
        uses = self._uses[request.counts.tobytes()]
        grown = self._batches.growth(fleet.rows, uses)
        price = self._expert_s * (
            self._batches.active(fleet.rows) + grown + grown * fleet.sequences
        )
        return Decision(int(np.argmin(np.where(fleet.eligible, price, np.inf))))

    def on_booked(self, booking: Booking) -> None:
        assert booking.counts is not None
        uses = self._uses[booking.counts.tobytes()]
        use = self._held[booking.key] = PackedUse.of(uses, None, booking.counts.shape)
        self._batches.add(booking.row, use, 1)

    def on_ended(self, booking: Booking, ended: Ended) -> None:
        self._batches.add(booking.row, self._held.pop(booking.key), -1)


Make = Callable[[Workload, float], Policy]


def policies(parts: bool, output_tokens: int) -> dict[str, Make]:
    """What is compared, by name; each run makes a new one."""
    chosen: dict[str, Make] = {
        **{name: lambda _, __, name=name: create(name, {}) for name in (*LOAD_ONLY, BAND)},
        "true price": lambda w, cost: TruePrice(w, output_tokens, cost),
        "marginal-cost": lambda *_: MarginalCost(),
        "taught": lambda w, _: Taught(w, output_tokens),
    }
    if parts:
        without_tail = MarginalCostParameters(tail=10)
        chosen |= {
            "no decode counts": lambda *_: NoDecodeCounts(),
            "no remaining": lambda *_: NoRemaining(),
            "no partition": lambda *_: NoPartition(),
            "no tail": lambda *_: MarginalCost(without_tail),
            "no reports": lambda *_: NoReports(),
            "not packed": lambda *_: NotPacked(),
        }
    return chosen


def run(cell: Cell, how: How, seed: int, parts: bool) -> dict[str, dict[str, float]]:
    """Policy -> figure -> value under a seed."""
    study = study_of(cell, (), how)
    output_tokens = study.traffic.output_tokens
    assert isinstance(output_tokens, int)
    workload = study.workload(seed)
    partition = partition_of(workload, cell.workers, seed)
    cost = study.deployment.engines[0].cost.per_expert_us * 1e-6
    return {
        name: simulate(workload, make(workload, cost), study.deployment, partition).figures()
        for name, make in policies(parts, output_tokens).items()
    }


def partition_of(workload: Workload, workers: int, seed: int) -> Partition:
    """Fitted on the workload's fitted half, one slot per worker."""
    counts = workload.recording.prefill_counts()[workload.fitted]
    geometry = workload.recording.geometry
    return fit_partition(MODEL, counts, geometry, n_clusters=workers, random_state=seed)


def share_of_true_gain(values: Values) -> float | None:
    """Of the true price's gain in the mean, what `marginal-cost` gains; None where it has none."""
    priced, true = (gain(values, policy, MEAN).change for policy in (PRICED, "true price"))
    return priced / true if true < 0 else None


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.policies.policy_parts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", action="store_true", help="without each part too")
    parser.add_argument("--cell", action="append", help="only cells whose name has this in it")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of arrivals")
    parser.add_argument("--held-out", action="store_true", help="drive what was not fitted on only")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    need_recordings()
    how = How(options.seeds, options.duration, not options.held_out)
    cells = [c for c in ALL_CELLS if any(part in str(c) for part in options.cell or [""])]
    tasks = [(cell, how, seed, options.parts) for cell in cells for seed in range(options.seeds)]
    with ProcessPoolExecutor(options.jobs, initializer=log_to_stderr) as pool:
        runs = pool.map(run, *zip(*tasks, strict=True))
        each = list(track(runs, "simulating", len(tasks), console=STDERR))
    console = Console(width=None if sys.stdout.isatty() else 130)
    reached = Table("CELL", *GOALS, "OF TRUE GAIN", "COPIES", title=f"{PRICED}: goals")
    document = {}
    for cell in cells:
        found = [one for (of, *_), one in zip(tasks, each, strict=True) if of == cell]
        values = {
            policy: {figure: [one[policy][figure] for one in found] for figure in FIGURES}
            for policy in found[0]
        }
        table = Table("POLICY", *FIGURES, title=f"{cell}, against the best load-only policy")
        gains = {
            policy: {figure: gain(values, policy, figure) for figure in FIGURES}
            for policy in values
            if policy not in LOAD_ONLY
        }
        for policy, of_figure in gains.items():
            table.add_row(policy, *map(str, of_figure.values()))
        console.print(table)
        goals = judge(values, cell.workers)
        share = share_of_true_gain(values)
        requests, copies = (sum(one[PRICED][k] for one in found) for k in ("requests", "copies"))
        shown = (f"{goal} {goal.verdict}" for goal in goals.values())
        of_true = "it gains nothing" if share is None else f"{share:.0%}"
        reached.add_row(str(cell), *shown, of_true, f"{copies / requests:.0%}")
        document[str(cell)] = {
            "gains": {
                policy: {f: asdict(one) for f, one in g.items()} for policy, g in gains.items()
            },
            "goals": {
                name: asdict(goal) | {"verdict": goal.verdict} for name, goal in goals.items()
            },
            "of_true_gain": share,
            "copies": copies / requests,
            "values": values,
        }
    console.print(reached)
    written("policy_parts", {"how": asdict(how), "cells": document})


if __name__ == "__main__":
    main()
