"""`marginal-cost` in the cells of `benchmarks.cells`, its parts taken away one by one.

    python -m benchmarks.policy_parts [--parts] [--cell TEXT ...] [--seeds N] [--held-out]

*locality-band* is the reference, and *true price* what the plain price would do if it knew every
request's decode and the engines' costs: ``step with the request + expert x D x n``. *taught* has
learned from the half that the partition was fitted on, and learns no more: the simulator's requests
come again, and what was learned of a request itself would help it the next time. --parts adds, each
without one part: decode counts, remaining tokens, the partition, the tail, reports of costs.

Prints each policy's change against the best of the four load-only policies, and against
locality-band, with 95% intervals from paired seeds; writes build/bench/policy_parts.json.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.cells import CELLS, DEEPSEEK, GPT_OSS, Cell, How, study_of
from benchmarks.demo.data import ACTIVATIONS
from benchmarks.written import written
from eldr_service.core.fleet import LoadReport
from eldr_service.core.lease import Booking, Ended
from eldr_service.core.partition import Partition
from eldr_service.core.placement import Decision, FleetSnapshot, RequestView
from eldr_service.fitting import fit_partition
from eldr_service.policies.batches import Batches
from eldr_service.policies.marginal_cost import Experts, MarginalCost, MarginalCostParameters
from eldr_service.policies.policy import Policy
from eldr_service.policies.registry import create
from eldr_service.policies.remaining import Remaining
from eldr_service.simulation.comparison import LOAD_ONLY, student_t
from eldr_service.simulation.simulate import MODEL, simulate
from eldr_service.simulation.study import log_to_stderr
from eldr_service.simulation.workload import Workload

BAND = "locality-band"
FIGURES = ("tpot_ms.p50", "tpot_ms.p99", "tpot_ms.mean")
ALL_CELLS = (*CELLS, Cell(*DEEPSEEK, 8, 120), Cell(*GPT_OSS, 8, 75))


class NoDecodeCounts(MarginalCost):
    def on_ended(self, booking: Booking, ended: Ended) -> None:
        super().on_ended(replace(booking, decode_counts=None), ended)


class NoReports(MarginalCost):
    def on_reported(self, worker_id: str, report: LoadReport) -> None:
        """Costs stay as they are before any report."""


class NoPartition(MarginalCost):
    def pick(self, request: RequestView, fleet: FleetSnapshot) -> Decision:
        return super().pick(replace(request, signature=None), fleet)


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
        self.experts = Experts.of(prefills[0], recording.geometry.top_k)
        prediction = self.experts.prediction
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
        self._held: dict[tuple[str, int], np.ndarray] = {}

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
        self._held[booking.key] = self._batches.add(booking.row, uses, 1)

    def on_ended(self, booking: Booking, ended: Ended) -> None:
        self._batches.remove(booking.row, self._held.pop(booking.key), 1)


Make = Callable[[Workload, float], Policy]


def policies(parts: bool, output_tokens: int) -> dict[str, Make]:
    """What is compared, by name; each is made anew for a run."""
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
        }
    return chosen


def run_cell(cell: Cell, how: How, parts: bool) -> dict[str, dict[str, list[float]]]:
    """Policy -> figure -> a value a seed."""
    study = study_of(cell, (), how)
    output_tokens = study.traffic.output_tokens
    assert isinstance(output_tokens, int)
    found: dict[str, dict[str, list[float]]] = {}
    for seed in study.seeds:
        workload = study.workload(seed)
        partition = _partition(workload, cell.workers, seed)
        cost = study.deployment.engines[0].cost.per_expert_us * 1e-6
        for name, make in policies(parts, output_tokens).items():
            made = make(workload, cost)
            figures = simulate(workload, made, study.deployment, partition).figures()
            for figure in FIGURES:
                found.setdefault(name, {}).setdefault(figure, []).append(figures[figure])
    return found


def _partition(workload: Workload, workers: int, seed: int) -> Partition:
    counts = workload.recording.prefill_counts()[workload.fitted]
    geometry = workload.recording.geometry
    return fit_partition(MODEL, counts, geometry, n_clusters=workers, random_state=seed)


def change(values: list[float], beside: list[float]) -> tuple[float, float]:
    """Mean relative change over seeds, and half of its 95% interval; NaN of a single seed."""
    relative = np.array(values) / np.array(beside) - 1
    if len(relative) < 2:
        return float(relative.mean()), float("nan")
    half = student_t(len(relative) - 1) * relative.std(ddof=1) / np.sqrt(len(relative))
    return float(relative.mean()), float(half)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.policy_parts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", action="store_true", help="without each part too")
    parser.add_argument("--cell", action="append", help="only cells whose name has this in it")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of arrivals")
    parser.add_argument("--held-out", action="store_true", help="drive what was not fitted on only")
    options = parser.parse_args()
    if not ACTIVATIONS.is_dir():
        sys.exit(f"{ACTIVATIONS}: the public recordings are not here")
    log_to_stderr()
    how = How(options.seeds, options.duration, not options.held_out)
    console = Console(width=None if sys.stdout.isatty() else 150)
    document = {}
    for cell in ALL_CELLS:
        if options.cell and not any(part in str(cell) for part in options.cell):
            continue
        found = run_cell(cell, how, options.parts)
        table = Table("POLICY", *FIGURES, *(f"{f} / band" for f in FIGURES), title=str(cell))
        rows: dict[str, dict[str, tuple[float, float]]] = {}
        for name, figures in found.items():
            if name in LOAD_ONLY:
                continue
            rows[name] = {}
            for figure in FIGURES:
                best = min((found[p][figure] for p in LOAD_ONLY), key=np.mean)
                rows[name][figure] = change(figures[figure], best)
            for figure in FIGURES:
                rows[name][f"{figure} / band"] = change(figures[figure], found[BAND][figure])
            table.add_row(name, *(f"{m:+.1%} ±{h:.1%}" for m, h in rows[name].values()))
        console.print(table)
        document[str(cell)] = {"changes": rows, "values": found}
    written("policy_parts", document)


if __name__ == "__main__":
    main()
