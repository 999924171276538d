"""What one model's partition needs, and when. It decides; `refits.Refits` acts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum

from eldr_service.core.partition import Partition
from eldr_service.core.worker import StepReport
from eldr_service.refits.drift import Drift
from eldr_service.refits.evidence import LEAST, worse
from eldr_service.routing.model import Model

# Workers that come or go together should be one change.
QUIET_SECONDS = 2.0
_MOST_DOUBLINGS = 6
_DRIFT_SAMPLE = 8  # signatures per tick: about 0.2 ms
_REPORTS_A_LOOK = 16
_PROVEN = 512  # reports without evidence of worsening


class RefitMode(IntEnum):
    """Whether partitions follow the traffic automatically; the numbers are the contract's."""

    OFF = 1
    MANUAL = 2
    AUTO = 3


class Due(Enum):
    """What is due, and why."""

    RESHAPE = "reshape"
    FIRST = "first"
    MEMBERSHIP = "membership"
    TRAFFIC = "traffic"


@dataclass(frozen=True, slots=True)
class RefitSettings:
    """When partitions are refitted.

    Attributes
    ----------
    mode : RefitMode
        Of models for which none was set.
    interval : float
        Least seconds between refits.
    window : float
        Seconds that a partition activated by hand is left alone; the span of `RecentCounts`.
    signatures : int
        Per worker: fewest in the window, and new ones between refits.
    """

    mode: RefitMode = RefitMode.AUTO
    interval: float = 300.0
    window: float = 1_800.0
    signatures: int = 32


@dataclass(slots=True, kw_only=True)
class _Watch:
    """A partition on probation.

    Attributes
    ----------
    before : list of StepReport
    slots : mapping of worker id to slot
        How workers were bound before, to restore on a rollback.
    placements : int
        Placements to be made before reports are about this partition.
    until : float
        No verdict after that: the traffic has changed.
    since, looked : int
        Reports seen at that point, and when the evidence was last checked; -1 for not yet.
    """

    before: list[StepReport]
    slots: Mapping[str, int]
    placements: int
    until: float
    since: int = -1
    looked: int = -1


class Upkeep:
    """The upkeep of one model's partition.

    Attributes
    ----------
    running : bool
        Whether a fit is in progress.
    last : str
        The outcome of the last fit, in words; empty before the first.
    held_until : float
        Until when the partition, chosen by hand, is left alone.
    """

    def __init__(self, model: Model, settings: RefitSettings, mode: RefitMode) -> None:
        self.model = model
        self.mode = mode
        self.running = False
        self.last = ""
        self.held_until = -math.inf
        self._settings = settings
        self._partition: Partition | None = None
        self._drift: Drift | None = None
        self._watch: _Watch | None = None
        self._not_before = -math.inf
        self._rollbacks = 0
        self._kept_at_refit = 0
        self._kept_at_drift = 0
        self._reports_at_activation = 0
        self._members: frozenset[int] = frozenset()
        self._changed_at = -math.inf
        self._after_change: Due | None = None

    # Events of the model

    def follow(self, automatic: bool, now: float) -> None:
        """Detect what has changed since the last tick; `automatic` means not chosen by hand."""
        model = self.model
        model.recent.is_open = self.mode is not RefitMode.OFF
        model.recent.spill(now)
        if model.partition is not self._partition:
            self._activated()
            self.held_until = -math.inf if automatic else now + self._settings.window
        members = frozenset(model.bindings.slot_of if model.bindings else ())
        if members != self._members:
            self._members, self._changed_at, self._watch = members, now, None
            self._after_change = Due.RESHAPE
        if now < self.held_until:
            self._after_change = None
        if self._watch and now > self._watch.until:
            self._watch = None
        new = min(model.recent.kept - self._kept_at_drift, _DRIFT_SAMPLE)
        self._kept_at_drift = model.recent.kept
        if self._drift and new:
            self._drift.update(model.recent.newest(new))
            model.drift = self._drift.ratio

    def _activated(self) -> None:
        model = self.model
        self._partition = model.partition
        self._drift = Drift(model.partition) if model.partition else None
        model.drift = None
        self._watch = None
        self._reports_at_activation = model.step_reports_seen

    def due(self, now: float) -> Due | None:
        """What is to be done."""
        model, need = self.model, self._settings.signatures
        idle = self.mode is not RefitMode.AUTO or self.running or now < self.held_until
        if idle or model.geometry is None or not len(model.recent):
            return None
        workers = self.workers()
        if workers < 2:  # nothing to choose from
            return None
        enough = len(model.recent) >= need * workers
        if self._after_change and now - self._changed_at >= QUIET_SECONDS:
            if self._after_change is Due.MEMBERSHIP:
                return Due.MEMBERSHIP if enough else None
            if self._misfit():
                return Due.RESHAPE
            self._after_change = None
        fresh = model.recent.kept - self._kept_at_refit >= need * workers
        if not enough or not fresh or self._watch or now < self._not_before:
            return None
        return Due.TRAFFIC if model.partition else Due.FIRST

    def workers(self) -> int:
        """Number of decode workers that have a slot, or would have one with a partition."""
        bindings = self.model.bindings
        return len(bindings.slot_of) if bindings else len(self.model.rows_to_bind())

    def _misfit(self) -> bool:
        """Whether a slot is vacant or shared."""
        assert self.model.partition
        assert self.model.bindings
        slots = self.model.bindings.slot_of.values()
        return not len(slots) == len(set(slots)) == self.model.partition.num_slots

    # Actions

    def begin(self, due: Due, now: float) -> None:
        """A fit begins; after a reshape, whatever its outcome, a refit follows."""
        self.running = True
        if due is Due.RESHAPE:
            self._after_change = Due.MEMBERSHIP
        elif due is Due.MEMBERSHIP:
            self._after_change = None
        if due is not Due.RESHAPE:
            self._kept_at_refit = self.model.recent.kept
            self._not_before = now + self._settings.interval * 2**self._rollbacks

    def installed(self) -> None:
        """An automatic partition is in force."""
        self._activated()

    def probation(self, slots: Mapping[str, int], bookings: int, now: float) -> None:
        """A refitted partition is in force, replacing one that bound workers to `slots`.

        `bookings` were alive then, and their steps are not due to it. No refit to other traffic
        follows before the verdict, unless there can be none because workers do not report.
        """
        reports = self._reports_since(self._reports_at_activation)
        self._activated()
        if len(reports) >= LEAST:
            self._watch = _Watch(
                before=reports, slots=slots, placements=bookings, until=now + self._settings.window
            )

    def got_worse(self) -> tuple[str, Mapping[str, int]] | None:
        """What got worse since the last refit, and how workers were bound before it.

        None if nothing did, or if it is too early to tell.
        """
        watch, seen = self._watch, self.model.step_reports_seen
        if watch is None or not self.model.bindings:
            return None
        if watch.since < 0:
            if sum(self.model.bindings.placements) >= watch.placements:
                watch.since = watch.looked = seen
            return None
        if seen - watch.looked < _REPORTS_A_LOOK:
            return None
        watch.looked = seen
        after = self._reports_since(watch.since)
        if what := worse(watch.before, after):
            return what, watch.slots
        if len(after) >= _PROVEN:
            self._watch, self._rollbacks = None, 0
        return None

    def rolled_back(self, now: float) -> None:
        """The previous partition is in force again; each rollback in a row doubles refits' wait."""
        self._activated()
        self._rollbacks = min(self._rollbacks + 1, _MOST_DOUBLINGS)
        self._not_before = now + self._settings.interval * 2**self._rollbacks

    def _reports_since(self, seen: int) -> list[StepReport]:
        reports = list(self.model.step_reports)
        return reports[max(0, len(reports) - (self.model.step_reports_seen - seen)) :]
