"""Which workers have their own series, so that the number of series is bounded."""

OTHER = "other"
"""Stands for all workers without their own series; a worker of this name is among them."""


class OwnSeries:
    """The first `most` workers get their own series, and keep them until they are gone.

    Later ones get theirs once there is room: their counters begin then, and those of `other` never
    decrease.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._own: set[tuple[str, str]] = set()

    def label(self, model: str, worker_id: str) -> str:
        """The worker's name in its series."""
        key = model, worker_id
        if key in self._own:
            return worker_id
        if worker_id == OTHER or len(self._own) >= self._most:
            return OTHER
        self._own.add(key)
        return worker_id

    def forget(self, model: str, worker_id: str) -> None:
        """The worker is gone."""
        self._own.discard((model, worker_id))
