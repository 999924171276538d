"""What a replay found, of one model."""

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from eldr_service.lab.replay.replica import Choice, Moment


@dataclass(slots=True)
class Mean:
    """A weighted mean; NaN of nothing."""

    total: float = 0.0
    weight: float = 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        """Take a value in."""
        self.total += weight * value
        self.weight += weight

    @property
    def value(self) -> float:
        """The mean."""
        return self.total / self.weight if self.weight else float("nan")


@dataclass(slots=True)
class Side:
    """The logged bookings, or those that were followed through: how workers were with them.

    Attributes
    ----------
    active_experts : Mean
        Per layer and step, over the sequences in flight after each decision.
    load_spread : Mean
        The largest load of a READY worker over their mean, after each decision.
    by_worker : dict of worker id to (active experts, load), each a Mean over decisions
    reasons : Counter of reason
    """

    active_experts: Mean = field(default_factory=Mean)
    load_spread: Mean = field(default_factory=Mean)
    by_worker: dict[str, tuple[Mean, Mean]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)

    def saw(self, moment: Moment) -> None:
        """Take in the workers after a decision."""
        ready = moment.load[moment.ready]
        if ready.sum() > 0:
            self.load_spread.add(float(ready.max() / ready.mean()))
        sequences = moment.sequences.sum()
        if sequences and not np.isnan(moment.active_experts).any():
            weighted = float(moment.active_experts @ moment.sequences) / float(sequences)
            self.active_experts.add(weighted, float(sequences))
        for worker, active, load in zip(
            moment.workers, moment.active_experts.tolist(), moment.load.tolist(), strict=True
        ):
            experts, loads = self.by_worker.setdefault(worker, (Mean(), Mean()))
            loads.add(load)
            if not math.isnan(active):
                experts.add(active)


@dataclass(slots=True)
class Way:
    """One of the two ways of deciding again.

    Attributes
    ----------
    moves : Counter of (logged worker, worker now); None for no room anywhere
    """

    moves: Counter[tuple[str, str | None]] = field(default_factory=Counter)

    @property
    def decisions(self) -> int:
        """All of them."""
        return self.moves.total()

    @property
    def same(self) -> int:
        """Those that came to the logged worker."""
        return sum(n for (old, new), n in self.moves.items() if old == new)

    @property
    def changed(self) -> int:
        """Those that came to another worker, or to none."""
        return self.decisions - self.same

    @property
    def refused(self) -> int:
        """Those for which there was no room."""
        return self.now(None)

    def logged(self, worker: str) -> int:
        """Those that were logged on a worker."""
        return sum(n for (old, _), n in self.moves.items() if old == worker)

    def now(self, worker: str | None) -> int:
        """Those that come to a worker now."""
        return sum(n for (_, new), n in self.moves.items() if new == worker)

    def left(self, worker: str) -> int:
        """Those logged on a worker that come to another now."""
        return self.logged(worker) - self.moves[worker, worker]


@dataclass(slots=True)
class Figures:
    """Of one model, over the whole log.

    Attributes
    ----------
    logged, followed : Side
        How workers were as it was logged, and with the policy's own bookings.
    as_logged, followed_through : Way
        Each decision in the logged state, and in that which came of those before.
    policies : Counter of str
        Logged ones, by decisions.
    """

    logged: Side = field(default_factory=Side)
    followed: Side = field(default_factory=Side)
    as_logged: Way = field(default_factory=Way)
    followed_through: Way = field(default_factory=Way)
    policies: Counter[str] = field(default_factory=Counter)

    def decided(self, old: Choice, as_logged: Choice, followed: Choice) -> None:
        """Take in a decision: what it was, and what it came to in both ways."""
        assert old.worker is not None
        self.as_logged.moves[old.worker, as_logged.worker] += 1
        self.followed_through.moves[old.worker, followed.worker] += 1
        for side, choice in ((self.logged, old), (self.followed, followed)):
            side.reasons[choice.reason.name if choice.reason else "RESOURCE_EXHAUSTED"] += 1
