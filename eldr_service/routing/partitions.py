"""Partitions of every model: kept under increasing versions, activated, rolled back."""

from collections.abc import Mapping
from dataclasses import replace

from eldr_service.core.errors import FailedPreconditionError, NotFoundError
from eldr_service.core.partition import Partition
from eldr_service.routing.model import Model
from eldr_service.routing.records import Records
from eldr_service.routing.router import Router
from eldr_service.routing.workers import Workers
from eldr_service.stores.partition_file import dump_partition, load_partition

MAX_HISTORY = 100
MAX_AUTOMATIC = 16  # versions of refits kept per model, as new ones keep coming


class Partitions:
    """The partitions of every model, kept in step with the store."""

    def __init__(self, router: Router, workers: Workers, records: Records) -> None:
        self._router = router
        self._workers = workers
        self._records = records
        self._store = records.store

    def add(self, partition: Partition) -> Partition:
        """Keep a partition as the model's next version; returns it with that version.

        Raises
        ------
        FailedPreconditionError
            Its geometry is not the model's.
        """
        if known := self._router.models.get(partition.model):
            known.check_geometry(partition.geometry)
        model = self._router.model_or_new(partition.model)
        model.declare_geometry(partition.geometry, "partition")
        record = self._records.of(model.name)
        kept = replace(partition, version=record.next_version)
        with self._store.transaction():
            self._store.add_partition(model.name, kept.version, dump_partition(kept))
            following = record.next_version + 1
            self._records.save(replace(record, geometry=model.geometry, next_version=following))
        return kept

    def get(self, model_name: str, version: int = 0) -> Partition:
        """A partition; version 0 means the active one.

        Raises
        ------
        NotFoundError
        """
        model = self._router.model(model_name)
        if version == 0 and model.partition is None:
            raise NotFoundError(f"model {model_name} has no active partition")
        if model.partition and version in (0, model.partition.version):
            return model.partition
        versions = self._store.partition_versions(model_name)
        if version not in versions:
            raise NotFoundError(f"model {model_name} has no partition {version}, only {versions}")
        return load_partition(self._store.partition(model_name, version))

    def all(self, model_name: str) -> list[Partition]:
        """The partitions of a model (of all models if empty), by model and version."""
        names = [self._router.model(model_name).name] if model_name else sorted(self._router.models)
        return [
            self.get(name, version)
            for name in names
            for version in self._store.partition_versions(name)
        ]

    def activate(self, model_name: str, version: int) -> Partition:
        """Use a version from the next decision on."""
        partition = self.get(model_name, version)
        model = self._router.model(model_name)
        history = self._history_before(model, partition)
        self._use(model, partition, history, partition.bindings)
        self._by_hand(model)
        return partition

    def install(self, partition: Partition, wishes: Mapping[str, int]) -> Partition:
        """Keep and activate a refit's partition; drop the oldest refits.

        Raises FailedPreconditionError as `add` does.
        """
        kept = self.add(replace(partition, bindings=wishes))
        model = self._router.model(kept.model)
        record = self._records.of(model.name)
        automatic = (*record.automatic, kept.version)
        forgotten = set(automatic[:-MAX_AUTOMATIC])
        history = self._history_before(model, kept)
        with self._store.transaction():
            for version in forgotten:
                self._store.delete_partition(model.name, version)
            self._records.save(replace(record, automatic=automatic[-MAX_AUTOMATIC:]))
        history = tuple(version for version in history if version not in forgotten)
        self._use(model, kept, history, wishes)
        return kept

    def rollback(self, model_name: str, wishes: Mapping[str, int] | None = None) -> Partition:
        """Go back to the previously active version.

        `wishes` bind workers to slots first, by default those of the version itself. If given, the
        rollback does not count as a choice by hand.

        Raises
        ------
        FailedPreconditionError
            There is none.
        """
        model = self._router.model(model_name)
        history = self._records.of(model.name).history
        if not history:
            raise FailedPreconditionError(f"model {model_name} had no partition before this one")
        partition = self.get(model_name, history[-1])
        self._use(model, partition, history[:-1], partition.bindings if wishes is None else wishes)
        if wishes is None:
            self._by_hand(model)
        return partition

    def is_automatic(self, model: Model) -> bool:
        """Whether the active version came from an automatic refit."""
        record = self._records.of(model.name)
        return record.active_version in record.automatic

    def _by_hand(self, model: Model) -> None:
        """An operator chose the active version, so refits no longer own it, even if one made it."""
        record = self._records.of(model.name)
        rest = tuple(v for v in record.automatic if v != record.active_version)
        if rest != record.automatic:
            self._records.save(replace(record, automatic=rest))

    def _history_before(self, model: Model, partition: Partition) -> tuple[int, ...]:
        record = self._records.of(model.name)
        if record.active_version in (0, partition.version):
            return record.history
        return (*record.history, record.active_version)[-MAX_HISTORY:]

    def _use(
        self,
        model: Model,
        partition: Partition,
        history: tuple[int, ...],
        wishes: Mapping[str, int],
    ) -> None:
        model.activate(partition, wishes)
        record = replace(
            self._records.of(model.name), active_version=partition.version, history=history
        )
        self._records.save(record)
        self._workers.save_all(model)
