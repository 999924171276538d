"""What one model's partition needs, and when. Decides; `refits.Refits` acts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum

from eldr_service.core.partition import Partition
from eldr_service.core.worker import StepReport
from eldr_service.refits.drift import Drift
from eldr_service.refits.evidence import LEAST, worse
from eldr_service.routing.model import Model

# Workers that come or go together are to be one change.
QUIET_SECONDS = 2.0
_MOST_DOUBLINGS = 6
_DRIFT_SAMPLE = 8  # signatures a tick: some 0.2 ms
_REPORTS_A_LOOK = 16
_PROVEN = 512  # reports without evidence of anything worse


class RefitMode(IntEnum):
    """Whether partitions follow the traffic by themselves; the numbers are the contract's."""

    OFF = 1
    MANUAL = 2
    AUTO = 3


class Due(Enum):
    """What is to be done now, and why."""

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
        Of models that were given no other.
    interval : float
        Seconds between refits at least.
    window : float
        Seconds that a partition activated by hand is left alone; the span of `RecentCounts`.
    signatures : int
        For each worker: in the window at least, and new ones between refits.
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
        How workers were bound before, to go back to.
    placements : int
        So many are to be made before reports are about this partition's.
    until : float
        A verdict after that is of no use: the traffic is another.
    since, looked : int
        Reports seen when that was so, and when the evidence was looked at last; -1 for not yet.
    """

    before: list[StepReport]
    slots: Mapping[str, int]
    placements: int
    until: float
    since: int = -1
    looked: int = -1


class Upkeep:
    """One model's partition over time.

    Attributes
    ----------
    running : bool
        A fit is under way.
    last : str
        What came of the last fit, in words; empty before there is any.
    held_until : float
        The partition was chosen by hand and is left alone so long.
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

    # What happens to the model

    def follow(self, automatic: bool, now: float) -> None:
        """Notice what has changed since the last tick; `automatic` is not chosen by hand."""
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
        if workers < 2:  # there is no choice to make
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
        """Decode workers that have a slot, or would if there were a partition."""
        bindings = self.model.bindings
        return len(bindings.slot_of) if bindings else len(self.model.rows_to_bind())

    def _misfit(self) -> bool:
        """A slot is vacant or shared."""
        assert self.model.partition
        assert self.model.bindings
        slots = self.model.bindings.slot_of.values()
        return not len(slots) == len(set(slots)) == self.model.partition.num_slots

    # What is done

    def begin(self, due: Due, now: float) -> None:
        """A fit begins; after a reshape, whatever comes of it, a refit is to follow."""
        self.running = True
        if due is Due.RESHAPE:
            self._after_change = Due.MEMBERSHIP
        elif due is Due.MEMBERSHIP:
            self._after_change = None
        if due is not Due.RESHAPE:
            self._kept_at_refit = self.model.recent.kept
            self._not_before = now + self._settings.interval * 2**self._rollbacks

    def installed(self) -> None:
        """A partition of ours is in force."""
        self._activated()

    def probation(self, slots: Mapping[str, int], bookings: int, now: float) -> None:
        """A refitted partition is in force, in place of one that bound workers to `slots`.

        `bookings` were alive then, and their steps are not its doing. No refit to other traffic
        follows before the verdict, unless there can be none as workers do not report.
        """
        reports = self._reports_since(self._reports_at_activation)
        self._activated()
        if len(reports) >= LEAST:
            self._watch = _Watch(
                before=reports, slots=slots, placements=bookings, until=now + self._settings.window
            )

    def got_worse(self) -> tuple[str, Mapping[str, int]] | None:
        """What got worse since the last refit, and how workers were bound before it.

        None where nothing did, or it is too early to tell.
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
        """The partition before is in force again; each time in a row, refits wait twice as long."""
        self._activated()
        self._rollbacks = min(self._rollbacks + 1, _MOST_DOUBLINGS)
        self._not_before = now + self._settings.interval * 2**self._rollbacks

    def _reports_since(self, seen: int) -> list[StepReport]:
        reports = list(self.model.step_reports)
        return reports[max(0, len(reports) - (self.model.step_reports_seen - seen)) :]
