"""Membership: workers join, drain, leave, report, and survive a restart."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf

import structlog

from eldr_service.core.errors import (
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
)
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.words import counted
from eldr_service.core.worker import LoadReport, WorkerSpec, WorkerState
from eldr_service.routing.model import Model
from eldr_service.routing.reports import Steps, at_once, take_report
from eldr_service.routing.router import Router
from eldr_service.stores.records import StoreError, WorkerRecord
from eldr_service.stores.sqlite import SqliteStore

DRAWN = 1 << 48
"""Incarnations from here on were drawn by workers; the daemon's own are a clock's milliseconds."""

log = structlog.get_logger(__name__)


class Workers:
    """The fleet of every model, kept in step with the store.

    Parameters
    ----------
    router : Router
    store : SqliteStore
    first_incarnation : int
        Above every incarnation of an earlier run, such as the clock's milliseconds.
    """

    def __init__(self, router: Router, store: SqliteStore, first_incarnation: int) -> None:
        self._router = router
        self._store = store
        self._next_incarnation = first_incarnation
        self._static: set[tuple[str, str]] = set()  # from a file, so not in the store

    def register(
        self,
        model_name: str,
        spec: WorkerSpec,
        state: WorkerState,
        geometry: ModelGeometry | None,
        now: float,
        static: bool = False,
        only_new: bool = False,
        incarnation: int = 0,
    ) -> int:
        """Register a worker; returns its incarnation.

        If `incarnation` names the current life, that goes on. Otherwise a new one begins, with that
        number if given: such a worker may hold requests from before it was known, so it is JOINING
        until it has reported.

        `static` is for workers named by a file: they are not kept over a restart. With `only_new`,
        no worker's life is ended.

        Raises
        ------
        FailedPreconditionError
            The geometry is not the model's; or, with `only_new`, a worker of that id exists.
        ResourceExhaustedError
            The number of models or workers is at its limit.
        """
        known = self._router.models.get(model_name)
        lives = known.lives(spec.worker_id) if known else None
        if known and lives and lives[1] == incarnation:
            known.update(lives[0], spec, state, geometry, now)
            with self._logged():
                self._save(known, lives[0])
            return incarnation
        if only_new and known and (row := known.fleet.row(spec.worker_id)) is not None:
            bookings = counted(len(known.bookings.on_row(row)), "booking")
            raise FailedPreconditionError(
                f"worker {spec.worker_id} of {model_name} is there already: "
                f"{known.fleet.state(row).name}, with {bookings}"
            )
        if geometry and known:
            known.check_geometry(geometry, renewed=known.fleet.row(spec.worker_id))
        if known is None or spec.worker_id not in known.fleet:
            workers = sum(len(m.fleet) for m in self._router.models.values())
            if workers >= self._router.limits.max_workers:
                raise ResourceExhaustedError(
                    f"{counted(workers, 'worker')} known, the most there may be", retry_after=60.0
                )
        model = self._router.model_or_new(model_name)
        (self._static.add if static else self._static.discard)((model_name, spec.worker_id))
        if incarnation:
            state = WorkerState.JOINING
        else:
            self._next_incarnation = max(self._next_incarnation + 1, int(time.time() * 1e3))
        life = incarnation or self._next_incarnation
        returning = spec.worker_id in model.fleet
        row = model.join(spec, state, life, geometry, now, counts_unbooked=bool(incarnation))
        if returning:  # another worker may have moved to its former slot
            self.save_all(model)
        else:
            with self._logged():
                self._save(model, row)
        return life

    def restore(self, record: WorkerRecord, now: float) -> None:
        """Restore a worker of an earlier run, in its old life; its record is unchanged."""
        model = self._router.model_or_new(record.model)
        self._static.discard((record.model, record.worker_id))  # another replica registered it
        life, state = record.incarnation, WorkerState[record.state]
        drawn = life >= DRAWN
        if not drawn:
            self._next_incarnation = max(self._next_incarnation, life)
        model.join(record.spec, state, life, record.geometry, now, counts_unbooked=drawn)
        self._follow_drain(model, record)

    def _follow_drain(self, model: Model, record: WorkerRecord) -> None:
        row = model.fleet.row(record.worker_id)
        if row is not None and record.state == WorkerState.DRAINING.name:
            said = record.drain_removes, record.drain_until
            drain = model.drains.of(row)
            if drain is None or said != (drain.remove, drain.wall_until):
                until = record.drain_until - _clock() if record.drain_until else inf
                model.drains.begin(row, until, *said)

    def follow(self, record: WorkerRecord, now: float) -> None:
        """Update a worker in the same life as another replica has it."""
        model, row = self._find(record.model, record.worker_id)
        spec = record.spec
        if spec != replace(model.fleet.spec(row), capture=None):
            model.update(row, spec, WorkerState[record.state], record.geometry, now)
        else:
            model.follow(row, WorkerState[record.state])
        self._follow_drain(model, record)

    def life(self, model: Model, row: int) -> int:
        """The incarnation that a booking on it is tied to; 0 for a worker named by a file.

        Such a worker has a new life at each start of the daemon, while its engine goes on.
        """
        static = (model.name, model.fleet.spec(row).worker_id) in self._static
        return 0 if static else model.fleet.incarnation(row)

    def drain(
        self,
        model_name: str,
        worker_id: str,
        *,
        until: float = inf,
        remove: bool = False,
    ) -> int:
        """Place nothing new on a worker; returns the sequences still booked on it.

        At `until`, remaining bookings end. With `remove`, the worker is removed once there are
        none.

        Raises
        ------
        NotFoundError
        """
        model, row = self._find(model_name, worker_id)
        model.drain(row)
        model.drains.begin(row, until, remove, until + _clock() if until < inf else 0.0)
        self.save_all(model)
        return model.fleet.booked(row)

    def remove(
        self,
        model_name: str,
        worker_id: str,
        incarnation: int,
        now: float,
        in_order: bool = True,
    ) -> int:
        """Remove a worker, or only the given life of it; returns the number of bookings ended.

        Raises
        ------
        NotFoundError
        """
        model, row = self._find(model_name, worker_id)
        if incarnation not in (0, model.fleet.incarnation(row)):
            raise NotFoundError(
                f"worker {worker_id} of model {model_name} is in another life,"
                f" {model.fleet.incarnation(row)}"
            )
        return self._remove(model, row, now, in_order)

    def remove_silent(self, silent: list[tuple[str, int]], now: float) -> None:
        """Remove the workers that `Router.tick` found silent for too long, or drained."""
        for model_name, row in silent:
            self._remove(self._router.model(model_name), row, now)

    def _remove(self, model: Model, row: int, now: float, in_order: bool = False) -> int:
        worker_id = model.fleet.spec(row).worker_id
        ended = model.remove(row, now, in_order)
        self._forget(model, worker_id)
        return ended

    def _forget(self, model: Model, worker_id: str) -> None:
        with self._logged():
            self._store.delete_worker(model.name, worker_id)
        self.save_all(model)

    def report(
        self, model_name: str, worker_id: str, report: LoadReport, now: float
    ) -> tuple[bool, list[tuple[str, int]]]:
        """Take in a worker's report at once; see `reporting`."""
        return at_once(self.reporting(model_name, worker_id, report, now))

    def reporting(
        self, model_name: str, worker_id: str, report: LoadReport, now: float
    ) -> Steps[tuple[bool, list[tuple[str, int]]]]:
        """Take in a worker's report, a slice of its requests at a time.

        Returns
        -------
        accepted : bool
            False for a report that is late or from another life.
        unknown : list of (request_id, attempt)
            What it holds without a booking there.

        Raises
        ------
        NotFoundError
        """
        model, row = self._find(model_name, worker_id)
        taken = yield from take_report(model, row, report, now)
        if taken is None:
            return False, []
        if taken.moved_to is WorkerState.GONE:
            self._forget(model, worker_id)
        elif taken.moved_to:
            self.save_all(model)
        return True, taken.unknown

    def told(self, model_name: str, worker_id: str) -> tuple[WorkerState, bool]:
        """A worker's state, and whether it is drained."""
        model = self._router.models.get(model_name)
        row = model.fleet.row(worker_id) if model else None
        if model is None or row is None:
            return WorkerState.GONE, False
        return model.fleet.state(row), model.is_drained(row)

    def save_all(self, model: Model) -> None:
        """Store a model's workers after several may have moved to other slots."""
        with self._logged(), self._store.transaction():
            for row in model.fleet.rows():
                self._save(model, row)

    def _find(self, model_name: str, worker_id: str) -> tuple[Model, int]:
        model = self._router.model(model_name)
        row = model.fleet.row(worker_id)
        if row is None:
            raise NotFoundError(f"worker {worker_id} of model {model_name} is unknown")
        return model, row

    def _save(self, model: Model, row: int) -> None:
        if (model.name, model.fleet.spec(row).worker_id) not in self._static:
            self._store.save_worker(record_of(model, row))

    @contextmanager
    def _logged(self) -> Iterator[None]:
        """Log store errors: with a full disk a worker still serves, and is lost at a restart."""
        try:
            yield
        except StoreError as error:
            log.error("worker not saved", error=str(error))


def _clock() -> float:
    """Unix time at which the monotonic clock was 0."""
    return time.time() - time.monotonic()


def record_of(model: Model, row: int) -> WorkerRecord:
    """What the store keeps about a worker."""
    drain = model.drains.of(row)
    return WorkerRecord.of(
        model.name,
        model.fleet.spec(row),
        state=model.fleet.state(row).name,
        incarnation=model.fleet.incarnation(row),
        slot=model.bindings.slot_of.get(row, -1) if model.bindings else -1,
        geometry=model.geometry if model.declares(row) else None,
        drain_until=drain.wall_until if drain else 0.0,
        drain_removes=bool(drain and drain.remove),
    )
