"""What sources said last, over a restart: one that cannot be read then goes on as it was."""

import json
from dataclasses import asdict

from eldr_service.core.worker import WorkerRole, WorkerSpec, WorkerState
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
        """Keep what a source has, in the place of what it had."""
        records = [asdict(_record(key, found)) for key, found in snapshot.items()]
        with self._store.transaction() as execute:
            execute("INSERT OR REPLACE INTO found VALUES (?, ?)", (source, json.dumps(records)))

    def of(self, source: str) -> Snapshot:
        """What a source had; nothing, where it was never read."""
        rows = self._store.read("SELECT workers FROM found WHERE source = ?", (source,))
        return dict(_found(worker_of(record)) for (text,) in rows for record in json.loads(text))


def _record(key: Key, found: Found) -> WorkerRecord:
    spec = found.spec
    return WorkerRecord(
        model=key[0],
        worker_id=spec.worker_id,
        role=spec.role.name,
        url=spec.url,
        dp_rank=spec.dp_rank,
        group=spec.group,
        labels=dict(spec.labels),
        capacity_sequences=spec.capacity_sequences,
        capacity_kv_tokens=spec.capacity_kv_tokens,
        state=found.state.name,
        incarnation=0,
        time_to_live=spec.time_to_live,
        slot=-1,
        geometry=found.geometry,
    )


def _found(record: WorkerRecord) -> tuple[Key, Found]:
    spec = WorkerSpec(
        worker_id=record.worker_id,
        role=WorkerRole[record.role],
        url=record.url,
        dp_rank=record.dp_rank,
        group=record.group,
        labels=dict(record.labels),
        capacity_sequences=record.capacity_sequences,
        capacity_kv_tokens=record.capacity_kv_tokens,
        time_to_live=record.time_to_live,
    )
    return (record.model, record.worker_id), Found(spec, record.geometry, WorkerState[record.state])
