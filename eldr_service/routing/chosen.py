"""An operator's choices for a model: policy, refit mode, geometry; and all models at a restart."""

from dataclasses import replace

import structlog

from eldr_service.core.errors import EldrError
from eldr_service.core.geometry import ModelGeometry
from eldr_service.policies.policy import Policy
from eldr_service.policies.registry import create_prepared, parameters_of
from eldr_service.routing.model import Model
from eldr_service.routing.partitions import Partitions
from eldr_service.routing.records import Records
from eldr_service.routing.router import Router
from eldr_service.routing.workers import Workers
from eldr_service.stores.records import ModelRecord

log = structlog.get_logger(__name__)


class Chosen:
    """The choices for every model, kept in step with the store."""

    def __init__(
        self, router: Router, workers: Workers, partitions: Partitions, records: Records
    ) -> None:
        self._router = router
        self._workers = workers
        self._partitions = partitions
        self._records = records

    def set_policy(self, model_name: str, policy: Policy) -> None:
        """Put a prepared policy in force from the next decision on.

        Raises
        ------
        NotFoundError
            The model is unknown.
        """
        self._router.model(model_name).set_policy(policy)
        record = replace(
            self._records.of(model_name),
            policy=policy.name,
            policy_parameters=parameters_of(policy),
        )
        self._records.save(record)

    def refit_mode(self, model: Model) -> str:
        """The refit mode chosen for the model; empty if none was."""
        return self._records.of(model.name).refit

    def set_refit_mode(self, model: Model, name: str) -> None:
        """Set and store the refit mode of a model."""
        self._records.save(replace(self._records.of(model.name), refit=name))

    def declare(self, model_name: str, geometry: ModelGeometry) -> None:
        """Set a model's geometry, by configuration."""
        self._router.model_or_new(model_name).declare_geometry(geometry, "configuration")

    def follow(self, record: ModelRecord) -> None:
        """Apply choices that another replica made, which the store already has."""
        model, before = self._router.model_or_new(record.name), self._records.of(record.name)
        self._records.take(record)
        if record.geometry and not model.declares("partition"):
            model.declare_geometry(record.geometry, "partition")
        chosen = record.policy, record.policy_parameters
        if record.policy and chosen != (before.policy, before.policy_parameters):
            model.set_policy(self._restored_policy(record))
        active = model.partition.version if model.partition else 0
        if record.active_version not in (0, active):
            partition = self._partitions.get(record.name, record.active_version)
            model.activate(partition, partition.bindings)

    def restore(self, now: float) -> None:
        """Restore all that an earlier run left in the store."""
        records = self._records.load()
        for record in records:
            model = self._router.model_or_new(record.name)
            if record.geometry:
                model.declare_geometry(record.geometry, "partition")
            if record.policy:
                model.set_policy(self._restored_policy(record))
        slots: dict[str, dict[str, int]] = {}
        for worker in self._records.store.workers():
            self._workers.restore(worker, now)
            if worker.slot >= 0:
                slots.setdefault(worker.model, {})[worker.worker_id] = worker.slot
        for record in records:
            if record.active_version:
                model = self._router.model(record.name)
                partition = self._partitions.get(record.name, record.active_version)
                model.activate(partition, slots.get(record.name, {}))

    def _restored_policy(self, record: ModelRecord) -> Policy:
        try:
            return create_prepared(record.policy, record.policy_parameters)
        except EldrError as error:  # its package is no longer installed, say
            log.error("policy not restored", model=record.name, error=str(error))
            return self._router.model(record.name).policy
