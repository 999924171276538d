"""Partitions of every model: kept under rising versions, activated, rolled back, restored."""

from dataclasses import replace

import structlog

from eldr_service.core.errors import EldrError, FailedPreconditionError, NotFoundError
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.partition import Partition
from eldr_service.policies.policy import Policy
from eldr_service.policies.registry import create, parameters_of
from eldr_service.routing.model import Model
from eldr_service.routing.router import Router
from eldr_service.routing.workers import Workers
from eldr_service.stores.partition_file import dump_partition, load_partition
from eldr_service.stores.records import ModelRecord
from eldr_service.stores.sqlite import SqliteStore

MAX_HISTORY = 100

log = structlog.get_logger(__name__)


class Partitions:
    """The partitions and the policy of every model, kept in step with the store."""

    def __init__(self, router: Router, workers: Workers, store: SqliteStore) -> None:
        self._router = router
        self._workers = workers
        self._store = store
        self._records: dict[str, ModelRecord] = {}

    # Partitions

    def add(self, partition: Partition) -> Partition:
        """Keep a partition under the model's next version; returns it with that.

        Raises
        ------
        FailedPreconditionError
            Its geometry is not the model's.
        """
        if known := self._router.models.get(partition.model):
            known.check_geometry(partition.geometry)
        model = self._router.model_or_new(partition.model)
        model.declare_geometry(partition.geometry, "partition")
        record = self._record(model)
        kept = replace(partition, version=record.next_version)
        with self._store.transaction():
            self._store.add_partition(model.name, kept.version, dump_partition(kept))
            following = record.next_version + 1
            self._save(replace(record, geometry=model.geometry, next_version=following))
        return kept

    def get(self, model_name: str, version: int = 0) -> Partition:
        """A partition; version 0 stands for the active one.

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
        """The partitions of a model (of all models when empty), by model and version."""
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
        record = self._record(model)
        history = record.history
        if record.active_version not in (0, partition.version):
            history = (*history, record.active_version)[-MAX_HISTORY:]
        self._use(model, partition, history)
        return partition

    def rollback(self, model_name: str) -> Partition:
        """Go back to the version that was active before.

        Raises
        ------
        FailedPreconditionError
            There was none.
        """
        model = self._router.model(model_name)
        history = self._record(model).history
        if not history:
            raise FailedPreconditionError(f"model {model_name} had no partition before this one")
        partition = self.get(model_name, history[-1])
        self._use(model, partition, history[:-1])
        return partition

    def _use(self, model: Model, partition: Partition, history: tuple[int, ...]) -> None:
        model.activate(partition, partition.bindings)
        record = replace(self._record(model), active_version=partition.version, history=history)
        self._save(record)
        self._workers.save_all(model)

    # Policy

    def set_policy(self, model_name: str, name: str, parameters: dict[str, str]) -> Policy:
        """Put a policy in force from the next decision on.

        Raises
        ------
        NotFoundError, InvalidArgumentError, FailedPreconditionError
            The model is unknown; see `policies.registry.create` for the others.
        """
        model = self._router.model(model_name)
        policy = create(name, parameters)
        model.set_policy(policy)
        model.has_own_policy = True
        record = replace(
            self._record(model), policy=policy.name, policy_parameters=parameters_of(policy)
        )
        self._save(record)
        return policy

    # What survives

    def declare(self, model_name: str, geometry: ModelGeometry) -> None:
        """Make a geometry the model's, by configuration."""
        self._router.model_or_new(model_name).declare_geometry(geometry, "configuration")

    def restore(self, now: float) -> None:
        """Take in all that an earlier run left in the store."""
        for record in self._store.models():
            model = self._router.model_or_new(record.name)
            self._records[model.name] = record
            if record.geometry:
                model.declare_geometry(record.geometry, "partition")
            if record.policy:
                model.set_policy(self._restored_policy(record))
                model.has_own_policy = True
        slots: dict[str, dict[str, int]] = {}
        for worker in self._store.workers():
            self._workers.restore(worker, now)
            if worker.slot >= 0:
                slots.setdefault(worker.model, {})[worker.worker_id] = worker.slot
        for name, record in self._records.items():
            if record.active_version:
                model = self._router.model(name)
                model.activate(self.get(name, record.active_version), slots.get(name, {}))

    def _restored_policy(self, record: ModelRecord) -> Policy:
        try:
            return create(record.policy, record.policy_parameters)
        except EldrError as error:  # its package is not installed any more, say
            log.error("policy not restored", model=record.name, error=str(error))
            return self._router.model(record.name).policy

    def _record(self, model: Model) -> ModelRecord:
        return self._records.get(model.name) or ModelRecord(model.name)

    def _save(self, record: ModelRecord) -> None:
        self._records[record.name] = record
        self._store.save_model(record)
