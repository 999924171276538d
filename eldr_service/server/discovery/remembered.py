"""What sources listed last, kept over a restart for sources that cannot be read then."""

import json
from dataclasses import asdict

from eldr_service.core.worker import WorkerState
from eldr_service.server.discovery.source import Found, Key, Snapshot
from eldr_service.stores.records import WorkerRecord
from eldr_service.stores.sqlite import SqliteStore, worker_of


class Remembered:
    """Writes and reads snapshots in the daemon's store.

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

    def keep(self, source: str, snapshot: Snapshot) -> None:
        """Replace what is kept for a source."""
        records = [asdict(_record(key, found)) for key, found in snapshot.items()]
        with self._store.transaction() as execute:
            execute("INSERT OR REPLACE INTO found VALUES (?, ?)", (source, json.dumps(records)))

    def of(self, source: str) -> Snapshot:
        """What a source listed; empty if it was never read."""
        rows = self._store.read("SELECT workers FROM found WHERE source = ?", (source,))
        return dict(_found(worker_of(record)) for (text,) in rows for record in json.loads(text))


def _record(key: Key, found: Found) -> WorkerRecord:
    state, geometry = found.state.name, found.geometry
    return WorkerRecord.of(key[0], found.spec, state=state, incarnation=0, geometry=geometry)


def _found(record: WorkerRecord) -> tuple[Key, Found]:
    found = Found(record.spec, record.geometry, WorkerState[record.state])
    return (record.model, record.worker_id), found
