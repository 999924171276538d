"""Learned state in the store: a policy's arrays, and recent counts in pieces."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from eldr_service.stores.records import StoreError
from eldr_service.stores.sqlite import SqliteStore

Arrays = Mapping[str, NDArray[Any]]


class Learned(NamedTuple):
    """What a policy of this name had learned; `saved` in Unix seconds."""

    policy: str
    saved: float
    arrays: Arrays


class LearnedStore:
    """Writes and reads what was learned for each model. All of it can be learned again.

    Parameters
    ----------
    store : SqliteStore

    Raises
    ------
    StoreError
        From every method.
    """

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    def save(self, model: str, learned: Learned) -> None:
        """Save it, replacing what was there."""
        arrays = {name: np.ascontiguousarray(array) for name, array in learned.arrays.items()}
        self.keep(model, learned.policy, learned.saved, save(arrays))

    def keep(self, model: str, policy: str, saved: float, data: bytes) -> None:
        """Save it as encoded."""
        row = model, policy, saved, data
        with self._store.transaction() as execute:
            execute("INSERT OR REPLACE INTO learned VALUES (?, ?, ?, ?)", row)

    def of(self, model: str) -> Learned | None:
        """What was saved for a model, if anything."""
        rows = self._store.read("SELECT policy, saved, data FROM learned WHERE model = ?", (model,))
        for policy, saved, data in rows:
            return Learned(policy, saved, self._arrays(data))
        return None

    def add_recent(
        self, model: str, counts: NDArray[np.uint16], times: NDArray[np.float64], oldest: float
    ) -> None:
        """Save more recent counts [n, num_layers, num_experts] and their times; drop older ones.

        Times are Unix seconds; nothing from before `oldest` is kept.
        """
        self.keep_recent(model, float(times[-1]), oldest, save({"counts": counts, "times": times}))

    def keep_recent(self, model: str, until: float, oldest: float, data: bytes) -> None:
        """Save an encoded piece."""
        with self._store.transaction() as execute:
            execute("DELETE FROM recent WHERE model = ? AND until < ?", (model, oldest))
            execute(
                "INSERT INTO recent (model, until, data) VALUES (?, ?, ?)", (model, until, data)
            )

    def recent(
        self, model: str, oldest: float
    ) -> Iterator[tuple[NDArray[np.uint16], NDArray[np.float64]]]:
        """What `add_recent` saved since `oldest`, oldest first."""
        rows = self._store.read(
            "SELECT data FROM recent WHERE model = ? AND until >= ? ORDER BY place", (model, oldest)
        )
        for (data,) in rows:
            arrays = self._arrays(data)
            yield arrays["counts"], arrays["times"]

    def clear_recent(self, model: str) -> None:
        """Delete a model's recent counts."""
        with self._store.transaction() as execute:
            execute("DELETE FROM recent WHERE model = ?", (model,))

    def _arrays(self, data: bytes) -> Arrays:
        try:
            arrays: Arrays = load(data)
        except SafetensorError as error:
            raise StoreError(f"{self._store.damaged()} ({error})") from error
        return arrays
