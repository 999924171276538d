"""What the page shows about the last minutes: placements, TPOT, and which requests went where."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.booking import Booking
from eldr_service.core.decision import Reason
from eldr_service.core.ends import Ended
from eldr_service.core.partition import Partition
from eldr_service.core.signature_memory import SignatureSource
from eldr_service.core.worker import WorkerSpec, WorkerState
from eldr_service.kernels import similarity
from eldr_service.routing.call import Known, RouteCall
from eldr_service.routing.journal import Journal

MOST_PLACEMENTS = 60
"""Kept per model, and shown at a time; there are at most `--max-models` models."""
SAMPLE_SECONDS = 0.1
"""Mean time between lookups of a placement's cluster, at least; models have equal shares of them.

A lookup takes up to 0.1 ms.
"""
_KEPT = 0.995  # of the weights of earlier ones, at each of these
_RECENT = 0.1  # weight of the newest request in a worker's TPOT
_RATE_SECONDS = 10


class Placement(NamedTuple):
    """What the page shows about a placement, as it was decided; `at` in Unix seconds.

    It does not refer to the booking, whose counts take many times the memory.
    """

    at: float
    model: str
    request_id: str
    attempt: int
    worker_id: str
    reason: Reason
    early: bool
    policy: str
    source: SignatureSource
    similarity: float | None
    coverage: float | None  # None without a signature


@dataclass(slots=True)
class Followed:
    """What is known about one model.

    Attributes
    ----------
    tpot : dict of worker id to float
        Seconds, the mean over recent requests that were released with their times.
    version : int
        The version of the partition whose clusters are counted.
    shares : dict of worker id to ndarray of float64, shape [K]
        Weights of recent placements on a worker, by the slot whose centroid is nearest.
    next_sample : float
        When the next placement's slot is looked up, at the earliest.
    placements : deque of Placement
        The newest, oldest first.
    """

    tpot: dict[str, float] = field(default_factory=dict)
    version: int = 0
    shares: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    next_sample: float = 0.0
    placements: deque[Placement] = field(default_factory=lambda: deque(maxlen=MOST_PLACEMENTS))
    seconds: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_RATE_SECONDS + 1))

    def placements_per_second(self, now: float) -> float:
        """Over the last 10 whole seconds."""
        last = range(int(now) - _RATE_SECONDS, int(now))
        return sum(number for second, number in self.seconds if second in last) / _RATE_SECONDS


class Following(Journal):
    """Follows all models, at a few microseconds per placement.

    Parameters
    ----------
    partition_of : callable (model) -> Partition or None
        Returns the partition in force.
    """

    def __init__(self, partition_of: Callable[[str], Partition | None]) -> None:
        self._partition_of = partition_of
        self._models: dict[str, Followed] = {}

    def of(self, model: str) -> Followed:
        """What is known about a model."""
        return self._models.setdefault(model, Followed())

    def newest(self, models: Iterable[str]) -> list[Placement]:
        """The `MOST_PLACEMENTS` newest placements of these models together, newest first."""
        kept = [reversed(self._models[name].placements) for name in models if name in self._models]
        together = merge(*kept, key=lambda placement: placement.at, reverse=True)
        return list(islice(together, MOST_PLACEMENTS))

    def forgotten(self, model: str) -> None:
        """Forget the model."""
        self._models.pop(model, None)

    def placed(
        self, model: str, call: RouteCall, known: Known, booking: Booking, now: float
    ) -> None:
        """Remember it among the model's newest."""
        followed = self.of(model)
        followed.placements.append(
            Placement(
                at=time.time(),
                model=model,
                request_id=booking.request_id,
                attempt=booking.attempt,
                worker_id=booking.worker_id,
                reason=booking.reason,
                early=booking.early,
                policy=booking.policy,
                source=booking.source,
                similarity=booking.similarity,
                coverage=booking.known_coverage if booking.top_k else None,
            )
        )
        second = int(now)
        if followed.seconds and followed.seconds[-1][0] == second:
            followed.seconds[-1] = second, followed.seconds[-1][1] + 1
        else:
            followed.seconds.append((second, 1))
        if known.counts is not None and now >= followed.next_sample:
            followed.next_sample = now + SAMPLE_SECONDS * len(self._models)
            self._sample(followed, model, known, booking)

    def ended(self, model: str, booking: Booking, how: Ended, now: float) -> None:
        """Learn the worker's TPOT."""
        if how is Ended.RELEASED and booking.output_tokens > 1 and booking.decode_seconds > 0:
            tpot = booking.decode_seconds / (booking.output_tokens - 1)
            of_workers, worker = self.of(model).tpot, booking.worker_id
            before = of_workers.get(worker, tpot)
            of_workers[worker] = before + _RECENT * (tpot - before)

    def joined(
        self, model: str, row: int, spec: WorkerSpec, state: WorkerState, incarnation: int,
        now: float,
    ) -> None:  # fmt: skip
        """Forget what a worker of this name did in an earlier life."""
        self._forget(model, spec.worker_id)

    def keep_only(self, model: str, workers: Mapping[str, object]) -> None:
        """Forget workers that are gone."""
        for worker in [w for w in self.of(model).tpot if w not in workers]:
            self._forget(model, worker)

    def _forget(self, model: str, worker: str) -> None:
        followed = self.of(model)
        followed.tpot.pop(worker, None)
        followed.shares.pop(worker, None)

    def _sample(self, followed: Followed, model: str, known: Known, booking: Booking) -> None:
        partition = self._partition_of(model)
        assert known.counts is not None
        signature = partition.transform.signature(known.counts) if partition else None
        if partition is None or signature is None:
            return
        slots = np.arange(partition.num_slots, dtype=np.int32)
        nearest = int(np.argmax(similarity(partition.centroids, signature, slots)))
        if followed.version != partition.version:
            followed.version, followed.shares = partition.version, {}
        for shares in followed.shares.values():
            shares *= _KEPT
        shares = followed.shares.setdefault(booking.worker_id, np.zeros(partition.num_slots))
        shares[nearest] += 1
