"""Which workers have series of their own, so that any number of them makes a bounded number."""

OTHER = "other"
"""Stands for all workers that have none; one of that name is among them."""


class OwnSeries:
    """The first `most` workers that come have their own, and keep them until they are gone.

    One that came when there were too many gets its own once there is room: its counters begin
    then, and those of `other` never fall.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._own: set[tuple[str, str]] = set()

    def label(self, model: str, worker_id: str) -> str:
        """The worker, as its series are to call it."""
        key = model, worker_id
        if key in self._own:
            return worker_id
        if worker_id == OTHER or len(self._own) >= self._most:
            return OTHER
        self._own.add(key)
        return worker_id

    def forget(self, model: str, worker_id: str) -> None:
        """It is gone."""
        self._own.discard((model, worker_id))
