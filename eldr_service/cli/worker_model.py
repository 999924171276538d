"""Finds the model of a worker that is named by its id alone."""

from eldr.v1 import fleet_pb2 as pb

from eldr_service.cli.failure import CommandError
from eldr_service.cli.models import one_of
from eldr_service.cli.session import Session
from eldr_service.core.errors import did_you_mean


def model_of(session: Session, worker: str, said: str | None) -> str:
    """The model of a worker; several models may have a worker of this id."""
    if said:
        return said
    known = session.call(pb.ListWorkersRequest()).workers
    models = [one.model for one in known if one.worker_id == worker]
    if not models:
        near = did_you_mean(worker, (one.worker_id for one in known))
        raise CommandError(f"no worker {worker}{near}", "eldr workers list shows all", "NOT_FOUND")
    return one_of(models)
