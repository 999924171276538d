"""The results of a replay, for one model."""

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from eldr_service.lab.replay.replica import Choice, Moment


@dataclass(slots=True)
class Mean:
    """A weighted mean; NaN without values."""

    total: float = 0.0
    weight: float = 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        """Add a value."""
        self.total += weight * value
        self.weight += weight

    @property
    def value(self) -> float:
        """The mean."""
        return self.total / self.weight if self.weight else float("nan")


@dataclass(slots=True)
class Side:
    """The state of the workers with the logged bookings, or with the followed ones.

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
        """Add the workers' state after a decision."""
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
    moves : Counter of (logged worker, worker now)
        The worker now is None if there was no room anywhere.
    """

    moves: Counter[tuple[str, str | None]] = field(default_factory=Counter)

    @property
    def decisions(self) -> int:
        """Number of decisions."""
        return self.moves.total()

    @property
    def same(self) -> int:
        """Decisions for the logged worker."""
        return sum(n for (old, new), n in self.moves.items() if old == new)

    @property
    def changed(self) -> int:
        """Decisions for another worker, or for none."""
        return self.decisions - self.same

    @property
    def refused(self) -> int:
        """Decisions for which there was no room."""
        return self.now(None)

    def logged(self, worker: str) -> int:
        """Decisions logged for a worker."""
        return sum(n for (old, _), n in self.moves.items() if old == worker)

    def now(self, worker: str | None) -> int:
        """Decisions that are now for a worker."""
        return sum(n for (_, new), n in self.moves.items() if new == worker)

    def left(self, worker: str) -> int:
        """Decisions logged for a worker that are now for another."""
        return self.logged(worker) - self.moves[worker, worker]


@dataclass(slots=True)
class Figures:
    """The figures of one model, over the whole log.

    Attributes
    ----------
    logged, followed : Side
        The workers' state as logged, and with the policy's own bookings.
    as_logged, followed_through : Way
        Each decision in the logged state, and in the state that results from the previous ones.
    policies : Counter of str
        Logged policies, by number of decisions.
    """

    logged: Side = field(default_factory=Side)
    followed: Side = field(default_factory=Side)
    as_logged: Way = field(default_factory=Way)
    followed_through: Way = field(default_factory=Way)
    policies: Counter[str] = field(default_factory=Counter)

    def decided(self, old: Choice, as_logged: Choice, followed: Choice) -> None:
        """Add a decision: the logged one, and the results in both ways."""
        assert old.worker is not None
        self.as_logged.moves[old.worker, as_logged.worker] += 1
        self.followed_through.moves[old.worker, followed.worker] += 1
        for side, choice in ((self.logged, old), (self.followed, followed)):
            side.reasons[choice.reason.name if choice.reason else "RESOURCE_EXHAUSTED"] += 1
