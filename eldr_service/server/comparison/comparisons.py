"""Compares every model with load alone, while the comparison is being looked at.

That is while the page is open or the metrics are scraped. Otherwise a placement costs nothing here.
"""

import asyncio
import math
from dataclasses import dataclass

from eldr_service.core.activation import Counts
from eldr_service.core.booking import Booking
from eldr_service.core.ends import Ended
from eldr_service.core.worker import LoadReport, WorkerState
from eldr_service.kernels import (
    add_terms,
    compile_ahead,
    expected_active,
    follow_counts,
    learn_decode,
    pack_use,
    predict_use,
)
from eldr_service.policies.marginal_cost import MarginalCost
from eldr_service.policies.packed_use import PackedUse
from eldr_service.routing.call import Known, RouteCall
from eldr_service.routing.journal import Journal
from eldr_service.routing.router import Router
from eldr_service.server.comparison.load_only import Comparison, LoadOnly

KEPT_SECONDS = 300.0
"""How long a comparison continues after the last look."""


@dataclass(slots=True)
class Foretold:
    """Predicted active experts per layer of workers' batches, beside what their reports said.

    Attributes
    ----------
    reports : int
        Reports on a batch that was predicted.
    predicted, reported : float
        Sums over these reports.
    """

    reports: int = 0
    predicted: float = 0.0
    reported: float = 0.0


class Comparisons(Journal):
    """Follows decisions, from the first look on.

    Parameters
    ----------
    on : bool
        Whether comparisons are enabled.
    """

    def __init__(self, on: bool) -> None:
        self.on = on
        self._router: Router
        self._of: dict[str, LoadOnly] = {}
        self._foretold: dict[str, Foretold] = {}
        self._until = -math.inf
        self._preparing: asyncio.Future[None] | None = None
        self._prepared = False

    def prepare(self) -> None:
        """Compile kernels, which may take seconds; until then nothing is compared."""
        compile_ahead(add_terms, expected_active)
        compile_ahead(pack_use, predict_use, follow_counts, learn_decode)
        self._prepared = True

    def watch(self, router: Router) -> None:
        """Compare this router's placements; it is only read."""
        self._router = router

    def look(self, now: float) -> None:
        """Compare from now on, as the comparison is being looked at."""
        if not self.on:
            return
        if not self._prepared:
            if self._preparing is None:
                loop = asyncio.get_running_loop()
                self._preparing = loop.run_in_executor(None, self.prepare)
            return
        self._until = now + KEPT_SECONDS
        for name, model in self._router.models.items():
            if name not in self._of:
                self._of[name] = LoadOnly(model.fleet, len(model.bookings))

    def of(self, model: str) -> Comparison | None:
        """The comparison for a model, if there is one yet."""
        found = self._of.get(model)
        return found.comparison() if found else None

    def foretold(self, model: str) -> Foretold | None:
        """How predictions and reports compare since the daemon's start; None before the first."""
        return self._foretold.get(model)

    # Events

    def placed(
        self, model: str, call: RouteCall, known: Known, booking: Booking, now: float
    ) -> None:
        """A request was placed."""
        if now > self._until:
            self._of.clear()
        if comparison := self._of.get(model):
            comparison.placed(known, booking, now, self._predicted(model, booking))

    def completed(self, model: str, booking: Booking, counts: Counts) -> None:
        """A booking has its complete signature."""
        comparison = self._of.get(model)
        if comparison and (use := self._predicted(model, booking)):
            comparison.completed(booking, use)

    def ended(self, model: str, booking: Booking, how: Ended, now: float) -> None:
        """A booking ended."""
        if comparison := self._of.get(model):
            comparison.ended(booking, now)

    def reported(
        self, model: str, row: int, report: LoadReport, left_out: object, now: float
    ) -> None:
        """A worker reported its steps."""
        comparison = self._of.get(model)
        if comparison is None:
            return
        comparison.reported(self._router.models[model].fleet.spec(row).worker_id, report)
        reported = report.step_active_experts or report.active_experts
        predicted = comparison.predicted(row, report) if reported > 0 else None
        if predicted is not None and math.isfinite(reported):
            foretold = self._foretold.setdefault(model, Foretold())
            foretold.reports += 1
            foretold.predicted += predicted
            foretold.reported += reported

    def moved(self, model: str, row: int, state: WorkerState) -> None:
        """Workers changed, so the placements by load alone are out of date: start over."""
        self._of.pop(model, None)

    def forgotten(self, model: str) -> None:
        """A model was forgotten."""
        self._of.pop(model, None)
        self._foretold.pop(model, None)

    def _predicted(self, model: str, booking: Booking) -> PackedUse | None:
        """What `marginal-cost` has predicted for a request, if that policy is in force."""
        policy = self._router.models[model].policy
        return policy.experts.used_by(booking) if type(policy) is MarginalCost else None
