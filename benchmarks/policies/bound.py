"""A lower estimate of what placement could reach: free moves, with the true experts known.

Whenever a decode starts or ends, running requests are moved and swapped between workers as long as
that lowers ``sum of n x step`` over the workers, where a step follows from the experts that the n
requests of the batch actually use (their frequencies over the whole decode) and from the engines'
true costs. Each event poses a new problem, of which this is a local optimum, so the best possible
is at least as good. No router knows these frequencies, and no real move is free.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.geometry import ModelGeometry
from eldr_service.kernels.compiling import kept
from eldr_service.lab.simulation.cost import StepCost
from eldr_service.lab.simulation.workload import Workload

_MOST_USED = 1 - 1e-6
_LEAST_GAIN = 1e-9  # relative to the sum, so that rounding errors cannot cause endless moves


def unused_shares(workload: Workload, output_tokens: int | None) -> NDArray[np.float64]:
    """Share of each decode's tokens that do not use an expert, shape [driven, layers x experts].

    output_tokens of every request; None: as many as were recorded.
    """
    recording = workload.recording
    used = np.empty((len(workload.driven), recording.geometry.size))
    for i, request in enumerate(workload.driven.tolist()):
        recorded = recording.decode(request)
        tokens = output_tokens or recorded.stop - recorded.start
        used[i] = workload.decode_counts(i, tokens).counts.ravel() / tokens
    return 1 - np.minimum(used, _MOST_USED)


def step_of(cost: StepCost, geometry: ModelGeometry) -> tuple[float, float, float]:
    """Time of a step with every expert, how much each unused expert saves, each request adds."""
    fixed, layer, expert, sequence, _ = cost.coefficients
    layers = geometry.num_layers
    return fixed + layers * layer + expert * geometry.size, expert, layers * sequence


class FreeMoves:
    """Moves that lower the sum of ``n x step``; see the module.

    Parameters
    ----------
    workload : Workload
    workers : int
    cost : StepCost
        Every worker's; its context term is assumed the same wherever a request runs.
    output_tokens : int or None
        Of every request; None: as many as were recorded.
    """

    def __init__(
        self, workload: Workload, workers: int, cost: StepCost, output_tokens: int | None
    ) -> None:
        self._spared = unused_shares(workload, output_tokens)
        self._step = step_of(cost, workload.recording.geometry)
        size = self._spared.shape[1]
        self._unused = np.ones((workers, size))
        self._held: list[dict[int, int]] = [{} for _ in range(workers)]  # recordings by request
        self._worker: dict[int, int] = {}

    def started(self, request: int, recording: int, worker: int) -> None:
        """A decode has started."""
        self._held[worker][request] = recording
        self._worker[request] = worker
        self._multiply(worker)

    def ended(self, request: int) -> None:
        """A decode has ended."""
        worker = self._worker.pop(request)
        del self._held[worker][request]
        self._multiply(worker)

    def next(self) -> Iterator[tuple[int, int]]:
        """Yield (request, worker) of each move, once no further move helps."""
        requests = np.array(list(self._worker), np.int64)
        if not len(requests):
            return
        at = np.array([self._worker[r] for r in requests.tolist()], np.int64)
        spared = self._spared[[self._held[w][r] for r, w in zip(requests, at, strict=True)]]
        before = at.copy()
        improve(at, spared, self._unused, *self._step)
        for i in np.flatnonzero(at != before).tolist():
            request, worker = int(requests[i]), int(at[i])
            self._held[worker][request] = self._held[self._worker[request]].pop(request)
            self._worker[request] = worker
            yield request, worker
        for worker in {*before[at != before].tolist(), *at[at != before].tolist()}:
            self._multiply(worker)

    def _multiply(self, worker: int) -> None:
        """Recompute the product: repeated multiplication and division would drift."""
        held = list(self._held[worker].values())
        self._unused[worker] = self._spared[held].prod(axis=0) if held else 1.0


@kept
def improve(
    at: NDArray[np.int64],
    spared: NDArray[np.float64],
    unused: NDArray[np.float64],
    whole: float,
    expert: float,
    sequence: float,
) -> None:
    """Move requests, else swap pairs, best first, until neither lowers the sum. In place.

    at [n] is each request's worker, spared [n, size] its probabilities of not using an expert,
    unused [workers, size] the products of these over a worker's requests. A step of m requests
    takes ``whole - expert x sum(unused) + sequence x m``.
    """
    n, workers = len(at), len(unused)
    held = np.zeros(workers, np.int64)
    for i in range(n):
        held[at[i]] += 1
    total = np.empty(workers)  # of unused
    with_it, without = np.empty((n, workers)), np.empty(n)
    for w in range(workers):
        total[w] = unused[w].sum()
    fresh = np.ones(workers, np.bool_)  # changed, so values derived from them are out of date
    cost = np.empty(workers)
    for _ in range(8 * n):
        for w in range(workers):
            if fresh[w]:
                cost[w] = held[w] * (whole - expert * total[w] + sequence * held[w])
        for i in range(n):
            if fresh[at[i]]:
                without[i] = (unused[at[i]] / spared[i]).sum()
            for w in range(workers):
                if fresh[w] and w != at[i]:
                    with_it[i, w] = np.dot(unused[w], spared[i])
        fresh[:] = False
        best, least = -1, -_LEAST_GAIN * cost.sum()
        to = 0
        for i in range(n):
            a = at[i]
            left = (held[a] - 1) * (whole - expert * without[i] + sequence * (held[a] - 1))
            for w in range(workers):
                if w != a:
                    more = (held[w] + 1) * (
                        whole - expert * with_it[i, w] + sequence * (held[w] + 1)
                    )
                    change = left + more - cost[a] - cost[w]
                    if change < least:
                        best, to, least = i, w, change
        other = -1
        if best < 0:
            best, other, least = _best_swap(at, spared, unused, held, cost, total, whole, expert,
                                            sequence, least)  # fmt: skip
            if best < 0:
                return
            to = at[other]
        a = at[best]
        unused[a] = unused[a] / spared[best]
        unused[to] = unused[to] * spared[best]
        held[a] -= 1
        held[to] += 1
        at[best] = to
        if other >= 0:
            unused[to] = unused[to] / spared[other]
            unused[a] = unused[a] * spared[other]
            held[to] -= 1
            held[a] += 1
            at[other] = a
        for w in (a, to):
            total[w] = unused[w].sum()
            fresh[w] = True


@kept
def _best_swap(
    at: NDArray[np.int64],
    spared: NDArray[np.float64],
    unused: NDArray[np.float64],
    held: NDArray[np.int64],
    cost: NDArray[np.float64],
    total: NDArray[np.float64],
    whole: float,
    expert: float,
    sequence: float,
    least: float,
) -> tuple[int, int, float]:
    """The pair whose swap lowers the sum most; (-1, -1, least) if none does.

    Only among the requests that fit worst where they are: the quarter that adds the most experts.
    """
    n = len(at)
    added = np.empty(n)
    for i in range(n):
        added[i] = (unused[at[i]] / spared[i]).sum() - total[at[i]]
    order = np.argsort(-added)[: max(n // 4, 2)]
    best, other = -1, -1
    for x in range(len(order)):
        i = order[x]
        a = at[i]
        alone = unused[a] / spared[i]
        for y in range(x):
            j = order[y]
            b = at[j]
            if a != b:
                here = np.dot(alone, spared[j])
                there = np.dot(unused[b] / spared[j], spared[i])
                change = held[a] * expert * (total[a] - here)
                change += held[b] * expert * (total[b] - there)
                if change < least:
                    best, other, least = i, j, change
    return best, other, least
