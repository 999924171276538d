"""The daemon's store of models and workers in memory, published to the replicas."""

import json
from collections.abc import Callable
from dataclasses import asdict

from eldr_service.stores.records import ModelRecord, StoreError, WorkerRecord
from eldr_service.stores.shared.operations import Operation, Result
from eldr_service.stores.sqlite import SqliteStore, model_of, worker_of

Tell = Callable[[Operation, Callable[[Result], None] | None], None]


class MirroredStore(SqliteStore):
    """This replica's own store, which publishes its changes to the shared state.

    Attributes
    ----------
    tell : callable (operation, hear), or None
        None while nothing is to be published: changes come from the shared state.
    conflict : callable (model, record)
        Told of a record that another replica changed at the same time.
    apart : bool
        The shared state is unreachable: changes of models are refused.
    """

    def __init__(self) -> None:
        super().__init__(None)
        self.tell: Tell | None = None
        self.conflict: Callable[[str, bytes], None] = lambda model, record: None
        self.apart = False
        self._models: dict[str, str] = {}
        self._workers: dict[tuple[str, str], WorkerRecord] = {}

    def save_model(self, model: ModelRecord) -> None:
        """Store a model; StoreError if the others cannot be told."""
        self._require()
        super().save_model(model)
        text = json.dumps(asdict(model))
        before, self._models[model.name] = self._models.get(model.name, ""), text
        if self.tell:
            self.tell(("model", model.name, before, text), self._judge(model.name))

    def add_partition(self, model: str, version: int, data: bytes) -> None:
        """Store a partition; StoreError if the others cannot be told."""
        self._require()
        super().add_partition(model, version, data)
        if self.tell:
            self.tell(("partition", model, version, data), self._judge(model))

    def delete_partition(self, model: str, version: int) -> None:
        """Forget a partition."""
        super().delete_partition(model, version)
        if self.tell:
            self.tell(("forget", model, version), None)

    def save_worker(self, worker: WorkerRecord) -> None:
        """Store a worker; the journal publishes lives that begin."""
        super().save_worker(worker)
        key = worker.model, worker.worker_id
        before, self._workers[key] = self._workers.get(key), worker
        same_life = before and before.incarnation == worker.incarnation
        if self.tell and before and same_life and before != worker:
            self.tell(("save", *worker_fields(worker), before.state), None)

    def delete_worker(self, model: str, worker_id: str) -> None:
        """Remove a worker whose life is over."""
        super().delete_worker(model, worker_id)
        worker = self._workers.pop((model, worker_id), None)
        if self.tell and worker:
            self.tell(("gone", model, worker_id, worker.incarnation, 0), None)

    def keep_partition(self, model: str, version: int, data: bytes) -> None:
        """Store what the shared state has under this version."""
        super().add_partition(model, version, data)

    def take_model(self, text: bytes) -> ModelRecord:
        """Store what the shared state has for a model."""
        record = model_of(json.loads(text))
        super().save_model(record)
        self._models[record.name] = text.decode()
        return record

    def text_of(self, model: str) -> str:
        """A model's record for the shared state."""
        return self._models.get(model, "")

    def _judge(self, model: str) -> Callable[[Result], None]:
        def hear(result: Result) -> None:
            if result.word == "changed":
                self.conflict(model, result.told[0])

        return hear

    def _require(self) -> None:
        if self.apart:
            raise StoreError("the shared state cannot be reached")


def worker_fields(worker: WorkerRecord) -> Operation:
    """Model, worker, life, state and record, for the shared state."""
    record = json.dumps(asdict(worker))
    return worker.model, worker.worker_id, worker.incarnation, worker.state, record


def read_worker(text: bytes) -> WorkerRecord:
    """The inverse of `worker_fields` for the record."""
    return worker_of(json.loads(text))
