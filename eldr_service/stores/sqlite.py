"""The default store: one SQLite file in the state directory, or in memory."""

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from eldr_service.core.errors import NotFoundError
from eldr_service.core.geometry import ModelGeometry
from eldr_service.stores.records import ModelRecord, StoreError, WorkerRecord
from eldr_service.stores.volume import network_volume

log = structlog.get_logger(__name__)

FILE = "eldr.db"
APPLICATION_ID = int.from_bytes(b"ELDR")  # in the file's header, to recognise our files

# Models and workers are JSON: read whole, written whole, never searched, and their 64-bit unsigned
# numbers do not fit SQLite's. Rows keep the order in which they were first saved.
_FIRST = """
CREATE TABLE models (place INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, record TEXT NOT NULL);
CREATE TABLE workers (
    place INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, worker_id TEXT NOT NULL,
    record TEXT NOT NULL, UNIQUE (model, worker_id)
);
CREATE TABLE partitions (
    model TEXT NOT NULL, version INTEGER NOT NULL, created TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    data BLOB NOT NULL, PRIMARY KEY (model, version)
);
"""
# A living booking's number rises from one to the next; ends come many to a row, oldest first.
_BOOKINGS = """
CREATE TABLE bookings (number INTEGER PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE ends (place INTEGER PRIMARY KEY, until REAL NOT NULL, records TEXT NOT NULL);
"""
# Can be learned again; `until` is the time of the latest counts.
_LEARNED = """
CREATE TABLE learned (
    model TEXT PRIMARY KEY, policy TEXT NOT NULL, saved REAL NOT NULL, data BLOB NOT NULL
);
CREATE TABLE recent (
    place INTEGER PRIMARY KEY, model TEXT NOT NULL, until REAL NOT NULL, data BLOB NOT NULL
);
"""
# Workers that a source listed last, for a start while it cannot be read.
_FOUND = """
CREATE TABLE found (source TEXT PRIMARY KEY, workers TEXT NOT NULL);
"""
# Migrations, each from the previous schema version, the first from an empty file. Append only.
MIGRATIONS = (_FIRST, _BOOKINGS, _LEARNED, _FOUND)
SCHEMA_VERSION = len(MIGRATIONS)


class SqliteStore:
    """Stores models, workers and partitions; what it has stored survives kill -9.

    Each method is atomic, and so are several within `transaction`. A power failure never leaves
    half a change. The file belongs to one daemon at a time, which holds SQLite's own lock on it as
    long as it lives. Thread-safe.

    Parameters
    ----------
    directory : Path or None
        Where `eldr.db` is, created with the directory if missing; None keeps everything in memory.
    sync : bool
        Wait for the disk at each commit, so that even a power failure loses nothing; otherwise it
        may lose the last moments.

    Raises
    ------
    StoreError
        The file cannot be used; and from every method if reading or writing fails.
    """

    def __init__(self, directory: Path | None, sync: bool = False) -> None:
        self._lock = threading.RLock()
        self._sync = sync
        self._name = ":memory:" if directory is None else str(directory / FILE)
        if directory is not None:
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"{directory}: {error.strerror}") from error
            file = directory / FILE
            # SQLite's error would be about its lock.
            if file.exists() and not os.access(file, os.W_OK):
                raise StoreError(
                    f"{file} cannot be written: it is read-only; give --state a folder that can be"
                )
        with self._explained():
            self._db = sqlite3.connect(
                self._name, timeout=0, isolation_level=None, check_same_thread=False
            )
        try:
            self._open()
        except StoreError:
            self._db.close()
            raise

    def _open(self) -> None:
        with self._explained():
            # Before any read: a shared lock could never become exclusive while a second daemon,
            # starting at the same time, shares it too.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("BEGIN EXCLUSIVE")
            (application,) = self._db.execute("PRAGMA application_id").fetchone()
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            (tables,) = self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if tables and application != APPLICATION_ID:
                raise StoreError(f"{self._name} is another program's database, left as it is")
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"{self._name} was written by a newer eldr-server (schema {version}, this one"
                    f" knows {SCHEMA_VERSION}): upgrade, or choose another --state"
                )
            for statement in ";".join(MIGRATIONS[version if tables else 0 :]).split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            self._db.execute("COMMIT")
            # WAL does not work on files that other machines may open, and is lost with a client's
            # cache; a truncated journal costs one more sync per commit.
            if volume := network_volume(Path(self._name).parent):
                log.warning(
                    "state on a network volume: locks may not hold there, and commits are slow; a"
                    " local disk is safer",
                    state=self._name,
                    volume=volume,
                )
            self._db.execute(f"PRAGMA journal_mode = {'TRUNCATE' if volume else 'WAL'}")
            self._db.execute(f"PRAGMA synchronous = {'FULL' if self._sync else 'NORMAL'}")

    @contextmanager
    def transaction(self) -> Iterator[Callable[..., object]]:
        """Commit everything written inside, or nothing if the block raises.

        Yields SQLite's `execute`, for other modules' tables.
        """
        with self._lock, self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db.execute
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def read(self, query: str, parameters: tuple[object, ...] = ()) -> list[Any]:
        """All rows of a query, for other modules' tables."""
        with self._explained():
            return self._db.execute(query, parameters).fetchall()

    def save_worker(self, worker: WorkerRecord) -> None:
        """Store a worker; an existing one with its identity keeps its place in the order."""
        with self._explained():
            self._db.execute(
                "INSERT INTO workers (model, worker_id, record) VALUES (?, ?, ?)"
                " ON CONFLICT (model, worker_id) DO UPDATE SET record = excluded.record",
                (worker.model, worker.worker_id, json.dumps(asdict(worker))),
            )

    def delete_worker(self, model: str, worker_id: str) -> None:
        """Delete a worker, if it exists."""
        with self._explained():
            self._db.execute(
                "DELETE FROM workers WHERE model = ? AND worker_id = ?", (model, worker_id)
            )

    def workers(self) -> list[WorkerRecord]:
        """Return all workers, in the order in which they were first stored."""
        return [worker_of(record) for record in self._records("workers")]

    def save_model(self, model: ModelRecord) -> None:
        """Store a model, replacing the one of its name."""
        with self._explained():
            self._db.execute(
                "INSERT INTO models (name, record) VALUES (?, ?)"
                " ON CONFLICT (name) DO UPDATE SET record = excluded.record",
                (model.name, json.dumps(asdict(model))),
            )

    def models(self) -> list[ModelRecord]:
        """Return all models, in the order in which they were first stored."""
        return [model_of(record) for record in self._records("models")]

    def add_partition(self, model: str, version: int, data: bytes) -> None:
        """Store a partition's file; an existing version is never replaced."""
        with self._explained():
            self._db.execute(
                "INSERT INTO partitions (model, version, data) VALUES (?, ?, ?)",
                (model, version, data),
            )

    def partition(self, model: str, version: int) -> bytes:
        """Return a partition's file; NotFoundError if that version does not exist."""
        with self._explained():
            row = self._db.execute(
                "SELECT data FROM partitions WHERE model = ? AND version = ?", (model, version)
            ).fetchone()
        if row is None:
            raise NotFoundError(f"model {model} has no partition {version}")
        data: bytes = row[0]
        return data

    def delete_partition(self, model: str, version: int) -> None:
        """Delete a partition, if it exists; its version is not reused."""
        with self._explained():
            self._db.execute(
                "DELETE FROM partitions WHERE model = ? AND version = ?", (model, version)
            )

    def partition_versions(self, model: str) -> list[int]:
        """Return the stored versions, ascending."""
        with self._explained():
            rows = self._db.execute(
                "SELECT version FROM partitions WHERE model = ? ORDER BY version", (model,)
            ).fetchall()
        return [version for (version,) in rows]

    def close(self) -> None:
        """Release the file for the next daemon."""
        with self._explained():
            self._db.close()

    def _records(self, table: str) -> list[dict[str, Any]]:
        with self._explained():
            rows = self._db.execute(f"SELECT record FROM {table} ORDER BY place").fetchall()
        return [json.loads(record) for (record,) in rows]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise StoreError(self._explanation(error)) from error

    def damaged(self) -> str:
        """The message for a damaged file, with what to do."""
        return f"{self._name} is damaged: restore it, or move it away to start afresh"

    def _explanation(self, error: sqlite3.Error) -> str:
        match getattr(error, "sqlite_errorcode", 0) & 0xFF:  # the primary code
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                folder = Path(self._name).parent
                return (
                    f"another eldr-server uses {folder}: stop it, or give this one its own --state"
                )
            case sqlite3.SQLITE_NOTADB:
                return f"{self._name} is not a SQLite database, and was left unchanged"
            case sqlite3.SQLITE_CORRUPT:
                return self.damaged()
            case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
                return f"{self._name} cannot be written: {error}; give --state a folder that can be"
            case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
                return f"{self._name} cannot be written: {error}; is its disk full or failing?"
            case _:
                return f"{self._name}: {error}"


def worker_of(record: dict[str, Any]) -> WorkerRecord:
    """A worker's record from its stored form."""
    return WorkerRecord(**{**record, "geometry": _geometry(record)})


def model_of(record: dict[str, Any]) -> ModelRecord:
    """A model's record from its stored form."""
    return ModelRecord(
        **{
            **record,
            "geometry": _geometry(record),
            "history": tuple(record["history"]),
            "automatic": tuple(record.get("automatic", ())),  # earlier versions wrote none
        }
    )


def _geometry(record: dict[str, Any]) -> ModelGeometry | None:
    geometry = record["geometry"]
    return geometry and ModelGeometry(**geometry)
