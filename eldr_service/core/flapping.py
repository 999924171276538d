"""Holds down workers that leave and return repeatedly, longer each time.

Each return adds 1 to a worker's penalty, which halves every two minutes. A return that takes it
above 1.5 holds the worker down for 2 to the power of the penalty in seconds, up to a limit. So a
restart costs nothing, and few requests meet a crash loop. A worker that an operator removes, or
that leaves after a drain, has no penalty.
"""

from math import log2

HALF_LIFE_SECONDS = 120.0
FREE = 1.5
"""The penalty up to which a return has no consequence."""
_MOST_KNOWN = 8_192


class Flapping:
    """Penalties of one model's workers, by id; they outlive the workers' lives.

    Parameters
    ----------
    most_seconds : float
        The longest hold-down; 0 disables it.
    """

    def __init__(self, most_seconds: float) -> None:
        self._most_seconds = most_seconds
        self._penalties: dict[str, tuple[float, float]] = {}  # and its time; latest last

    def joined(self, worker_id: str, now: float) -> float:
        """A worker has joined, for the first time or again; returns the seconds to hold it down."""
        if worker_id in self._penalties:
            return self.returned(worker_id, now)
        self._note(worker_id, 0.0, now)
        return 0.0

    def returned(self, worker_id: str, now: float) -> float:
        """A worker has returned; returns the seconds to hold it down."""
        if not self._most_seconds:
            return 0.0
        # No more than the longest hold-down implies, so that it ends soon after the flapping.
        highest = max(FREE, log2(max(self._most_seconds, 1.0))) + 1.0
        penalty = min(self.penalty(worker_id, now) + 1.0, highest)
        self._note(worker_id, penalty, now)
        return 0.0 if penalty <= FREE else min(2.0**penalty, self._most_seconds)

    def forget(self, worker_id: str) -> None:
        """A worker left in order: its return is not penalised."""
        self._penalties.pop(worker_id, None)

    def penalty(self, worker_id: str, now: float) -> float:
        """The worker's current penalty."""
        penalty, at = self._penalties.get(worker_id, (0.0, now))
        return float(penalty * 0.5 ** ((now - at) / HALF_LIFE_SECONDS))

    def _note(self, worker_id: str, penalty: float, now: float) -> None:
        self._penalties.pop(worker_id, None)
        self._penalties[worker_id] = penalty, now
        if len(self._penalties) > _MOST_KNOWN:
            del self._penalties[next(iter(self._penalties))]
