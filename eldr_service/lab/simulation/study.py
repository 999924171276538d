"""Runs several policies over several seeds, in one process per core."""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from eldr_service.core.partition import Partition
from eldr_service.lab.recordings import Recording
from eldr_service.lab.simulation.band import Band
from eldr_service.lab.simulation.contender import AUTO, Contender
from eldr_service.lab.simulation.deployment import Deployment
from eldr_service.lab.simulation.fit import fit
from eldr_service.lab.simulation.simulate import simulate
from eldr_service.lab.simulation.traffic import Traffic
from eldr_service.lab.simulation.tuning import Choice, Tried, inner_workloads, try_widths
from eldr_service.lab.simulation.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What to simulate.

    Attributes
    ----------
    activations : Path
        A recording with tokens.
    policies : tuple of str
        Each NAME[:key=value,…], as `Contender.read` takes it.
    deployment : Deployment
    traffic : Traffic
    seeds : tuple of int
        Each draws a split, requests and an order of recordings, and fits a partition with one slot
        per worker, shared by all policies without a transform of their own.
    calibration_fraction : float
    drive_all : bool
    shift_s : float
        See `Workload.draw`.
    fit_share : float
        Share of the fitting part that the partition sees; the driven part stays the same.
    fit_domains : float
        Share of the domains that the partition sees, drawn by the seed; the others are new to it.
    tuned_in : Study or None
        The study in which policies are tuned; None: this one.
    """

    activations: Path
    policies: tuple[str, ...]
    deployment: Deployment
    traffic: Traffic
    seeds: tuple[int, ...] = (0,)
    calibration_fraction: float = 0.5
    drive_all: bool = False
    shift_s: float = math.inf
    fit_share: float = 1.0
    fit_domains: float = 1.0
    tuned_in: "Study | None" = None

    def workload(self, seed: int) -> Workload:
        """The workload of every policy under a seed; ValueError if it cannot be drawn."""
        recording = load_recorded(self.activations)
        return Workload.draw(
            recording,
            self.traffic,
            seed,
            self.calibration_fraction,
            self.drive_all,
            self.shift_s,
        )

    def seen(self, workload: Workload) -> NDArray[np.int64]:
        """The recorded requests on which the partition is fitted."""
        fitted = workload.fitted
        if self.fit_domains < 1:
            domains = np.unique(workload.recording.domains)
            order = np.random.default_rng([workload.seed, 2]).permutation(domains)
            known = order[: math.ceil(len(domains) * self.fit_domains)]
            fitted = fitted[np.isin(workload.recording.domains[fitted], known)]
        return fitted[: math.ceil(len(fitted) * self.fit_share)]


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a policy under a seed.

    Attributes
    ----------
    figures, reasons
        See `Result`.
    sent : dict of str to list of int
        Requests by worker, for each domain, or for each slot if no domain was recorded.
    band : Band or None
        Of `locality-band` with a partition.
    choice : Choice or None
        Of a tuned policy.
    """

    figures: dict[str, float]
    reasons: Counter[str]
    sent: dict[str, list[int]]
    band: Band | None = None
    choice: Choice | None = None


def run_study(
    study: Study, jobs: int = 1, done: Callable[[], None] = lambda: None
) -> dict[str, list[Run]]:
    """Run every policy of one study under every seed; see `run_studies`."""
    return run_studies([study], jobs, done)[0]


def run_studies(
    studies: Sequence[Study], jobs: int = 1, done: Callable[[], None] = lambda: None
) -> list[dict[str, list[Run]]]:
    """Run every policy of each study under every seed.

    Parameters
    ----------
    studies : sequence of Study
    jobs : int
        Processes; 1 runs in this one. The results do not depend on it.
    done : callable
        Called as many times as the studies' `steps` sum to.

    Returns
    -------
    list of dict of policy to list of Run, one per seed
        In the order of the studies.

    Raises
    ------
    ValueError, EldrError
        A study is invalid.
    """
    read = {policy: Contender.read(policy) for study in studies for policy in study.policies}
    seeded = [(i, study, seed) for i, study in enumerate(studies) for seed in study.seeds]
    tuned = {
        (study.tuned_in or study, seed, policy): None
        for _, study, seed in seeded
        for policy in study.policies
        if read[policy].tuned
    }
    tries = [
        (at, *key, transform)
        for at, key in enumerate(tuned)
        for transform in read[key[-1]].transforms
    ]
    runs_in_all = sum(len(study.seeds) * len(study.policies) for study in studies)
    with _map(min(jobs, runs_in_all), done) as each:
        tried = dict(each(_try, tries))
        choices = {
            key: Choice.of({t: tried[at, t] for t in read[key[-1]].transforms})
            for at, key in enumerate(tuned)
        }

        def choice_of(study: Study, seed: int, policy: str) -> Choice | None:
            return choices.get((study.tuned_in or study, seed, policy))

        fits = []
        for i, study, seed in seeded:
            for fitted, policy in _fitted(study, read).items():
                choice = choice_of(study, seed, policy)
                transform = choice.transform if choice else fitted
                fits.append((i, study, seed, fitted, transform))
        partitions = dict(each(_fit, fits))
        tasks = [
            (
                *(i, study, seed, policy),
                partitions[i, seed, _partition_of(policy, read)],
                partitions[i, seed, AUTO],
                choice_of(study, seed, policy),
            )
            for i, study, seed in seeded
            for policy in study.policies
        ]
        runs = dict(each(_run, tasks))
    return [
        {policy: [runs[i, seed, policy] for seed in study.seeds] for policy in study.policies}
        for i, study in enumerate(studies)
    ]


def _partition_of(policy: str, read: Mapping[str, Contender]) -> str:
    """The key of a policy's partition: its transform, or the policy itself if it is tuned."""
    return policy if read[policy].tuned else read[policy].transform


def _fitted(study: Study, read: Mapping[str, Contender]) -> dict[str, str]:
    """The partitions of each seed, each with a policy that needs it; "auto" is always one."""
    return {AUTO: "", **{_partition_of(policy, read): policy for policy in study.policies}}


def log_to_stderr() -> None:
    """Send this process's router log to stderr from here on."""
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


def steps(study: Study) -> int:
    """How often `run_study` calls `done`, without tuning if another study does that."""
    read = {policy: Contender.read(policy) for policy in study.policies}
    tuned = [] if study.tuned_in else [one for one in read.values() if one.tuned]
    tries = sum(len(one.transforms) for one in tuned)
    return len(study.seeds) * (tries + len(_fitted(study, read)) + len(study.policies))


Each = Callable[[Callable[..., Any], Iterable[Sequence[Any]]], Iterator[Any]]


@contextmanager
def _map(jobs: int, done: Callable[[], None]) -> Iterator[Each]:
    """Return a function that calls another with each of many arguments, in any order."""
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


def _try(
    number: int, study: Study, seed: int, policy: str, transform: str
) -> tuple[tuple[int, str], Tried]:
    workload = study.workload(seed)
    given = study.seen(workload)
    inner = inner_workloads(workload.recording, given, study.traffic, seed, study.drive_all)
    tried = try_widths(Contender.read(policy), transform, inner, study.deployment)
    return (number, transform), tried


def _fit(
    number: int, study: Study, seed: int, fitted: str, transform: str
) -> tuple[tuple[int, int, str], Partition | None]:
    workload = study.workload(seed)
    seen, slots = study.seen(workload), study.deployment.workers
    return (number, seed, fitted), fit(workload.recording, seen, transform, slots, seed)


def _run(
    number: int,
    study: Study,
    seed: int,
    policy: str,
    partition: Partition | None,
    shared: Partition,
    choice: Choice | None,
) -> tuple[tuple[int, int, str], Run]:
    made = Contender.read(policy).create(choice.width if choice else None)
    workload = study.workload(seed)
    result = simulate(workload, made, study.deployment, partition)
    sent = result.sent(_groups(workload.recording, shared))
    band = Band.of(made, partition)
    return (number, seed, policy), Run(result.figures(), result.reasons, sent, band, choice)


def _groups(recording: Recording, partition: Partition) -> NDArray[np.str_]:
    """Each recorded request's domain or, if none was recorded, its nearest slot."""
    if (recording.domains != "").any():
        return np.where(recording.domains == "", "(none)", recording.domains)
    signatures = partition.transform.apply(recording.prefill_counts())
    nearest = np.argmax(signatures @ partition.centroids.T, axis=1)
    return np.array([f"slot {slot}" for slot in nearest])


@cache
def load_recorded(path: Path) -> Recording:
    """A recording with tokens, read once per process; ValueError if it has none."""
    recording = Recording.load(path)
    if recording.expert_ids is None:
        raise ValueError(f"{path}: expected a recording with tokens, found only counts")
    return recording
