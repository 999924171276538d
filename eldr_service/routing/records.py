"""What survives a restart of each model, in memory and in the store."""

from eldr_service.stores.records import ModelRecord
from eldr_service.stores.sqlite import SqliteStore


class Records:
    """The record of each model, kept in step with the store.

    Attributes
    ----------
    store : SqliteStore
    """

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self._records: dict[str, ModelRecord] = {}

    def load(self) -> list[ModelRecord]:
        """Load and return what an earlier run left."""
        self._records = {record.name: record for record in self.store.models()}
        return list(self._records.values())

    def of(self, model_name: str) -> ModelRecord:
        """The record of a model; an empty one if there is none yet."""
        return self._records.get(model_name) or ModelRecord(model_name)

    def take(self, record: ModelRecord) -> None:
        """Take over a record that the store already has."""
        self._records[record.name] = record

    def save(self, record: ModelRecord) -> None:
        """Replace the model's earlier record."""
        self._records[record.name] = record
        self.store.save_model(record)
