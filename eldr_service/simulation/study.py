"""Several policies over several seeds, in as many processes as there are cores."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import structlog

from eldr_service.core.partition import Partition
from eldr_service.fitting import Recording, fit_partition
from eldr_service.policies.registry import create, parse
from eldr_service.simulation.deployment import Deployment
from eldr_service.simulation.simulate import MODEL, simulate
from eldr_service.simulation.traffic import Traffic
from eldr_service.simulation.workload import Workload


@dataclass(frozen=True, slots=True)
class Study:
    """What to simulate.

    Attributes
    ----------
    activations : Path
        A recording with tokens.
    policies : tuple of str
        Each NAME[:key=value,…].
    deployment : Deployment
    traffic : Traffic
    seeds : tuple of int
        Each draws a split, requests and an order of recordings, and fits a partition with a slot a
        worker; all policies run on the same.
    calibration_fraction : float
    drive_all : bool
        See `Workload.draw`.
    """

    activations: Path
    policies: tuple[str, ...]
    deployment: Deployment
    traffic: Traffic
    seeds: tuple[int, ...] = (0,)
    calibration_fraction: float = 0.5
    drive_all: bool = False

    def workload(self, seed: int) -> Workload:
        """What every policy is given under a seed; ValueError when it cannot be drawn."""
        recording = _recording(self.activations)
        return Workload.draw(
            recording, self.traffic, seed, self.calibration_fraction, self.drive_all
        )


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a policy under a seed: see `Result`."""

    figures: dict[str, float]
    reasons: Counter[str]


def run_study(
    study: Study, jobs: int = 1, done: Callable[[], None] = lambda: None
) -> dict[str, list[Run]]:
    """Run every policy under every seed.

    Parameters
    ----------
    study : Study
    jobs : int
        Processes; 1 stays in this one. They change nothing in the results.
    done : callable
        Called `steps` times.

    Returns
    -------
    dict of policy to list of Run, a seed each

    Raises
    ------
    ValueError, EldrError
        Something in the study makes no sense.
    """
    with _map(min(jobs, len(study.seeds) * len(study.policies)), done) as each:
        partitions = dict(each(_fit, [(study, seed) for seed in study.seeds]))
        tasks = [
            (study, seed, policy, partitions[seed])
            for seed, policy in product(study.seeds, study.policies)
        ]
        runs = dict(each(_run, tasks))
    return {policy: [runs[seed, policy] for seed in study.seeds] for policy in study.policies}


def log_to_stderr() -> None:
    """Keep the router's log off stdout, from here on in this process."""
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


def steps(study: Study) -> int:
    """How often `run_study` calls `done`."""
    return len(study.seeds) * (1 + len(study.policies))


Each = Callable[[Callable[..., Any], Iterable[Sequence[Any]]], Iterator[Any]]


@contextmanager
def _map(jobs: int, done: Callable[[], None]) -> Iterator[Each]:
    """A function that calls another with each of many arguments, in any order."""
    if jobs < 2:

        def here(function: Callable[..., Any], tasks: Iterable[Sequence[Any]]) -> Iterator[Any]:
            for task in tasks:
                yield function(*task)
                done()

        yield here
        return
    # Not forked: a progress bar's thread may hold a lock at that moment.
    spawn = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=log_to_stderr) as pool:

        def there(function: Callable[..., Any], tasks: Iterable[Sequence[Any]]) -> Iterator[Any]:
            for future in as_completed([pool.submit(function, *task) for task in tasks]):
                yield future.result()
                done()

        try:
            yield there
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _fit(study: Study, seed: int) -> tuple[int, Partition]:
    workload = study.workload(seed)
    counts = workload.recording.prefill_counts()[workload.fitted]
    workers = study.deployment.workers
    geometry = workload.recording.geometry
    return seed, fit_partition(MODEL, counts, geometry, n_clusters=workers, random_state=seed)


def _run(study: Study, seed: int, policy: str, partition: Partition) -> tuple[tuple[int, str], Run]:
    made = create(*parse(policy))
    result = simulate(study.workload(seed), made, study.deployment, partition)
    return (seed, policy), Run(result.figures(), result.reasons)


@cache
def _recording(path: Path) -> Recording:
    recording = Recording.load(path)
    if recording.expert_ids is None:
        raise ValueError(f"{path}: holds counts alone, no tokens to decode")
    return recording
