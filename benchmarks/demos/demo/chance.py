"""How much of the result is chance: the plain loop's result with other seeds."""

from collections.abc import Callable

from benchmarks.demos.demo.plain import plain_run
from benchmarks.demos.demo.settings import Setting
from benchmarks.demos.demo.verdict import LOAD_ONLY, change
from benchmarks.demos.demo.workload import Workload
from eldr_service.fitting import fit_partition

SEEDS = 4


def other_seeds(
    work: Workload, model: str, subject: str, tried: Callable[[], None] = lambda: None
) -> dict[int, float]:
    """The change in active experts with each of the next seeds, at the same load.

    Each seed has its own halves, arrivals and order of recordings.
    """
    changes = {}
    for seed in range(work.seed + 1, work.seed + 1 + SEEDS):
        other = Workload.make(
            work.recording,
            work.cost,
            workers=work.workers,
            rate=work.rate,
            requests=len(work.arrivals),
            seed=seed,
        )
        partition = fit_partition(
            model,
            work.recording.prefill_counts()[other.fitted],
            work.recording.geometry,
            n_clusters=work.workers,
        )
        runs = {p: plain_run(Setting(p, partition), other) for p in (*LOAD_ONLY, subject)}
        changes[seed] = change({policy: run.finished for policy, run in runs.items()}, subject)
        tried()
    return changes
