"""Refits of all models: beside the decisions, installed if better, rolled back if worse."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import structlog

from eldr_service.core.errors import EldrError
from eldr_service.core.partition import Partition
from eldr_service.fitting.process import FittingProcess, FittingProcessError
from eldr_service.fitting.refit import Bound, Refit, refit
from eldr_service.fitting.reshape import reshaped
from eldr_service.refits.upkeep import Due, RefitMode, RefitSettings, Upkeep
from eldr_service.routing.chosen import Chosen
from eldr_service.routing.model import Model
from eldr_service.routing.partitions import Partitions
from eldr_service.routing.router import Router
from eldr_service.stores.records import StoreError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RefitStatus:
    """The state of a model's refits; `held_seconds` remain of a choice made by hand."""

    mode: RefitMode
    running: bool
    last: str
    held_seconds: float


class Refits:
    """Keeps the partitions of all models fitted to their traffic.

    Parameters
    ----------
    router, chosen, partitions, process
    settings : RefitSettings
    tell : callable (model, outcome)
        Told of the outcome of each refit, for metrics: installed, kept, reshaped, rolled_back,
        discarded (the model changed meanwhile) or failed.
    """

    def __init__(
        self,
        router: Router,
        chosen: Chosen,
        partitions: Partitions,
        process: FittingProcess,
        settings: RefitSettings,
        tell: Callable[[str, str], None],
    ) -> None:
        self._router = router
        self._chosen = chosen
        self._partitions = partitions
        self._process = process
        self._settings = settings
        self._tell = tell
        self._upkeep: dict[str, Upkeep] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def tick(self, now: float) -> None:
        """Check all models; a fit runs in the background."""
        for name in self._upkeep.keys() - self._router.models.keys():
            del self._upkeep[name]
        for model in list(self._router.models.values()):
            upkeep = self._of(model)
            upkeep.follow(self._partitions.is_automatic(model), now)
            if upkeep.mode is RefitMode.AUTO and (found := upkeep.got_worse()):
                self._roll_back(upkeep, *found, now)
            if due := upkeep.due(now):
                upkeep.begin(due, now)
                task = asyncio.create_task(self._run(upkeep, due))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def set_mode(self, model: Model, mode: RefitMode | None) -> None:
        """Set and store whether to refit a model; None for the daemon's setting."""
        self._chosen.set_refit_mode(model, mode.name if mode else "")
        self._of(model).mode = mode or self._settings.mode

    def follow_mode(self, model: Model) -> None:
        """Apply a model's mode that another replica chose."""
        name = self._chosen.refit_mode(model)
        self._of(model).mode = RefitMode[name] if name else self._settings.mode

    def status(self, model: Model) -> RefitStatus:
        """The state of a model's refits."""
        upkeep = self._of(model)
        held = max(0.0, upkeep.held_until - time.monotonic())
        return RefitStatus(upkeep.mode, upkeep.running, upkeep.last, held)

    async def close(self) -> None:
        """Abandon the work in progress."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _of(self, model: Model) -> Upkeep:
        upkeep = self._upkeep.get(model.name)
        if upkeep is None or upkeep.model is not model:
            own = self._chosen.refit_mode(model)
            mode = RefitMode[own] if own else self._settings.mode
            upkeep = self._upkeep[model.name] = Upkeep(model, self._settings, mode)
        return upkeep

    async def _run(self, upkeep: Upkeep, due: Due) -> None:
        model, began = upkeep.model, time.monotonic()
        try:
            if due is Due.RESHAPE:
                outcome = await self._reshape(upkeep)
            else:
                outcome = await self._refit(upkeep, due)
        except (FittingProcessError, StoreError, EldrError, ValueError) as error:
            outcome = "failed"
            log.warning("refit failed", model=model.name, reason=due.value, error=str(error))
        finally:
            upkeep.running = False
        upkeep.last = f"{due.value}: {outcome}"
        seconds = round(time.monotonic() - began, 3)
        log.info("refit", model=model.name, reason=due.value, outcome=outcome, seconds=seconds)
        self._tell(model.name, outcome)

    async def _reshape(self, upkeep: Upkeep) -> str:
        model, current = upkeep.model, upkeep.model.partition
        workers = model.slots_by_worker()
        assert current
        job = partial(reshaped, current=Bound(current, tuple(workers.values())))
        made = await self._process.run(job, model.recent.runs)
        if not self._still(upkeep, current):
            return "discarded"
        self._install(model, made.partition, dict(zip(workers, made.slots, strict=True)))
        upkeep.installed()
        return "reshaped"

    async def _refit(self, upkeep: Upkeep, due: Due) -> str:
        model, current = upkeep.model, upkeep.model.partition
        slots = model.slots_by_worker()
        assert model.geometry
        job = partial(
            refit,
            model=model.name,
            geometry=model.geometry,
            num_slots=upkeep.workers(),
            current=Bound(current, tuple(slots.values())) if current else None,
            reason=due.value,
        )
        made: Refit = await self._process.run(job, model.recent.runs)
        scores = {k: v for k, v in made.partition.metadata.items() if k.startswith("refit_")}
        log.info("refitted", model=model.name, better=made.better, drift=model.drift, **scores)
        if not self._still(upkeep, current):
            return "discarded"
        if not made.better:
            return "kept"
        slots = model.slots_by_worker()
        carried = {worker: made.carried[slot] for worker, slot in slots.items()}
        wishes = {worker: slot for worker, slot in carried.items() if slot >= 0}
        bookings = len(model.bookings)
        self._install(model, made.partition, wishes)
        if current:
            upkeep.probation(slots, bookings, time.monotonic())
        else:
            upkeep.installed()
        return "installed"

    def _still(self, upkeep: Upkeep, partition: Partition | None) -> bool:
        """Whether the model still wants it, and no other partition was activated meanwhile."""
        model = upkeep.model
        return (
            self._router.models.get(model.name) is model
            and model.partition is partition
            and upkeep.mode is RefitMode.AUTO
        )

    def _install(self, model: Model, partition: Partition, wishes: Mapping[str, int]) -> None:
        kept = self._partitions.install(partition, wishes)
        log.info("partition installed", model=model.name, version=kept.version)

    def _roll_back(self, upkeep: Upkeep, what: str, slots: Mapping[str, int], now: float) -> None:
        model = upkeep.model.name
        try:
            before = self._partitions.rollback(model, slots)
        except (StoreError, EldrError) as error:
            log.error("not rolled back", model=model, error=str(error))
            return
        upkeep.rolled_back(now)
        upkeep.last = f"rolled back to {before.version}: {what} got worse"
        log.warning("partition rolled back", model=model, version=before.version, worse=what)
        self._tell(model, "rolled_back")
