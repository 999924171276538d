"""The workers that a client falls back on when the router does not answer."""

import itertools
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from eldr.v1.fleet_pb2 import WatchWorkersResponse, Worker, WorkerRole, WorkerState
from eldr.v1.router_pb2 import RouteRequest

from eldr_client.placement import Placement, PlacementReason, WorkerTarget

# A worker that no placement named for so long, while others were named, is taken as gone.
_FORGET_AFTER = 600.0

Target = tuple[str, str, int] | tuple[str, str]
GivenWorkers = Iterable[Target] | Mapping[str, Iterable[Target]]


@dataclass(slots=True)
class _Known:
    target: WorkerTarget
    seen: float
    # From the watch; None if only placements have named the worker.
    watched: Worker | None = None
    generation: int = 0


class FallbackPool:
    """The last known workers of each model, taken round robin.

    Parameters
    ----------
    given : iterable of (worker_id, url[, dp_rank]), or a mapping of model to such
        Known from the start; a bare iterable is for every model.
    """

    def __init__(self, given: GivenWorkers = ()) -> None:
        per_model = given if isinstance(given, Mapping) else {}
        self._given_any = [] if isinstance(given, Mapping) else [WorkerTarget(*t) for t in given]
        self._given = {
            model: [WorkerTarget(*t) for t in targets] for model, targets in per_model.items()
        }
        self._known: defaultdict[str, dict[str, _Known]] = defaultdict(dict)
        self._answered: dict[str, float] = {}
        # Each client starts elsewhere, so that many clients do not all pick one worker.
        self._turn = itertools.count(random.randrange(1 << 16))
        self._generation = 0
        self._lock = threading.Lock()

    def learn(self, model: str, placement: Placement) -> None:
        """Remember the workers named in a placement of the router."""
        now = time.monotonic()
        with self._lock:
            self._answered[model] = now
            known = self._known[model]
            for target in placement.targets:
                entry = known.setdefault(target.worker_id, _Known(target, now))
                entry.target, entry.seen = target, now

    def begin_watch(self) -> None:
        """A new WatchWorkers stream begins; what it does not name in its first state is gone."""
        with self._lock:
            self._generation += 1

    def observe(self, update: WatchWorkersResponse) -> None:
        """Apply one WatchWorkers message."""
        with self._lock:
            if update.HasField("worker"):
                worker = update.worker
                target = WorkerTarget(worker.worker_id, worker.url, worker.dp_rank)
                self._known[worker.model][worker.worker_id] = _Known(
                    target, time.monotonic(), worker, self._generation
                )
            if update.synchronized:
                for known in self._known.values():
                    for entry in known.values():
                        if entry.watched and entry.generation != self._generation:
                            entry.watched.state = WorkerState.WORKER_STATE_GONE

    def place(self, request: RouteRequest) -> Placement | None:
        """The next worker that the request allows, as far as known; None if there is none.

        Labels and groups are known only from the watch: a worker that only placements have named
        passes every selector.
        """
        targets = self._allowed(request)
        if not targets:
            return None
        first = next(self._turn) % len(targets)
        chosen, *others = targets[first:] + targets[:first]
        return Placement(
            chosen.worker_id,
            chosen.url,
            chosen.dp_rank,
            alternates=tuple(others),
            reason=PlacementReason.CLIENT_FALLBACK,
        )

    def _allowed(self, request: RouteRequest) -> list[WorkerTarget]:
        candidates = {request.pinned_worker} if request.pinned_worker else set()
        candidates = candidates or set(request.candidate_workers)
        excluded = set(request.exclude_workers)
        with self._lock:
            known = self._known.get(request.model, {})
            prefill = known.get(request.prefill_worker)
            group = prefill.watched.group if prefill and prefill.watched else ""
            oldest = self._answered.get(request.model, 0.0) - _FORGET_AFTER
            targets = {
                target.worker_id: target
                for target in (*self._given_any, *self._given.get(request.model, ()))
            }
            for worker_id, entry in known.items():
                if entry.watched is None:
                    if entry.seen >= oldest:
                        targets[worker_id] = entry.target
                elif _serves(entry.watched, group, request.worker_selector):
                    targets[worker_id] = entry.target
                else:
                    targets.pop(worker_id, None)
        return [
            target
            for worker_id, target in targets.items()
            if worker_id not in excluded and (not candidates or worker_id in candidates)
        ]


def _serves(worker: Worker, group: str, selector: Mapping[str, str]) -> bool:
    return (
        worker.role != WorkerRole.WORKER_ROLE_PREFILL
        and worker.state == WorkerState.WORKER_STATE_READY
        and (not group or worker.group in ("", group))
        and all(worker.labels.get(name) == value for name, value in selector.items())
    )
