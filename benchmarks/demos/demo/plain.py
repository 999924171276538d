"""The demo again as a plain loop in one process: no daemon, no gRPC, no policy classes, no kernels.

The demo must match this loop, placement by placement. They share only the simulated engines, the
arrivals and the draws of `policies.draw`. Policies that learn are not implemented a second time:
they decide by their own class (`one_process`).
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from itertools import chain, count

import numpy as np

from benchmarks.demos.demo.one_process import OneProcess
from benchmarks.demos.demo.run import Figures, Run
from benchmarks.demos.demo.settings import Setting
from benchmarks.demos.demo.verdict import DEFAULT, LOAD_ONLY, ORACLE
from benchmarks.demos.demo.workload import Workload
from eldr_service.lab.simulation.arrivals import RecordingPicker
from eldr_service.lab.simulation.decode_pool import DecodePool
from eldr_service.lab.simulation.engine import Engine
from eldr_service.policies.draw import uniform_index

PLAIN = (*LOAD_ONLY, "locality", DEFAULT, ORACLE)


def plain_run(setting: Setting, work: Workload) -> Run:
    """Run a policy in one process; worker i is bound to slot i."""
    policy = setting.policy
    recording, driven = work.recording, work.driven
    assert recording.expert_ids is not None
    engines = [Engine(work.cost)] * work.workers
    pool = DecodePool(recording.expert_ids, recording.geometry.num_experts, engines)
    picker = RecordingPicker(len(driven), work.seed)
    booked = np.zeros(work.workers, dtype=int)
    plain = _choosers(work, setting)[policy] if policy in PLAIN else None
    learning = None if plain else OneProcess(setting, work)
    next_report = work.report_interval_s
    run = Run(policy)
    in_flight: dict[Hashable, int] = {}
    on_worker: dict[Hashable, int] = {}
    waiting: deque[float] = deque()
    last = work.arrivals[-1]
    for now in chain(work.arrivals, count(last + 1 / work.rate, 1 / work.rate)):
        finished = pool.advance(now)
        for ended in finished:
            del on_worker[ended.request_key]
        if learning and now >= next_report:
            next_report += work.report_interval_s
            learning.report(pool, on_worker, now)
        for ended in finished:
            i = in_flight.pop(ended.request_key)
            picker.give_back(i)
            booked[ended.worker] -= 1
            if learning:
                learning.release(i, ended)
        if now <= last:
            waiting.append(now)
        while waiting and (i := picker.take()) is not None:
            run.waited += waiting.popleft() < now
            number = len(run.placements)
            worker = learning.choose(i, number, now) if learning else plain(i, number, booked)
            booked[worker] += 1
            in_flight[number], on_worker[number] = i, worker
            request = int(driven[i])
            prompt = recording.prefill_tokens(request)
            pool.start(now, worker, number, recording.decode(request), prompt_tokens=prompt)
            run.placements.append((i, worker))
            run.most_in_flight = max(run.most_in_flight, len(in_flight))
        if now >= last and not waiting:
            break
    under_load = Figures.of(pool.statistics())
    pool.advance(np.inf)
    run.figures = Figures.of(pool.statistics()).with_imbalance_of(under_load)
    return run


def by_own_class(settings: Iterable[Setting]) -> list[str]:
    """The policies that this module does not implement."""
    return [setting.policy for setting in settings if setting.policy not in PLAIN]


def _choosers(work: Workload, setting: Setting) -> dict[str, Callable[[int, int, np.ndarray], int]]:
    """Policies as functions of (recording, number of the decision, booked on each worker)."""
    workers, partition = work.workers, setting.partition
    counts = work.recording.prefill_counts()[work.driven]
    signatures = partition.transform.apply(counts).astype(np.float64)
    similarity = np.round(signatures @ partition.centroids.astype(np.float64).T, 6)
    tau = float(setting.parameters.get("tau", 0.1))
    if "width" in setting.parameters:
        cosines = partition.centroids.astype(np.float64) @ partition.centroids.astype(np.float64).T
        others = cosines[~np.eye(len(cosines), dtype=bool)]
        tau = float(setting.parameters["width"]) * (1 - others.mean())
    domains = work.recording.domains[work.driven]
    serves = [set(label.split(",")) for label in work.oracle]

    def least(booked: np.ndarray, among: np.ndarray) -> int:
        return int(np.argmin(np.where(among, booked, np.inf)))

    def shortest(i: int, number: int, booked: np.ndarray) -> int:
        ties = np.flatnonzero(booked == booked.min())
        return int(ties[uniform_index(0, number, len(ties))])

    def two_choices(i: int, number: int, booked: np.ndarray) -> int:
        first = uniform_index(0, number, workers)
        others = [w for w in range(workers) if w != first]
        second = others[uniform_index(0, number, workers - 1, stream=1)] if others else first
        return second if booked[second] < booked[first] else first

    def band(i: int, number: int, booked: np.ndarray) -> int:
        near = similarity[i] >= similarity[i].max() - tau
        if near.sum() == 1:
            near[np.argsort(-similarity[i], kind="stable")[:2]] = True
        return least(booked, near)

    def nearest(i: int, number: int, booked: np.ndarray) -> int:
        return least(booked, similarity[i] == similarity[i].max())

    def oracle(i: int, number: int, booked: np.ndarray) -> int:
        own = np.array([domains[i] in served for served in serves])
        return least(booked, own if own.any() else ~own)

    return {
        "round-robin": lambda i, number, booked: number % workers,
        "random": lambda i, number, booked: uniform_index(0, number, workers),
        "join-shortest-queue": shortest,
        "power-of-two-choices": two_choices,
        "locality": nearest,
        "locality-band": band,
        "domain-oracle": oracle,
    }
