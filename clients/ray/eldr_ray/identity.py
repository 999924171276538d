"""Which worker of ELDR a replica is."""

from ray import serve
from ray.serve.request_router import ReplicaID


def worker_id(replica_id: ReplicaID) -> str:
    """`APP#DEPLOYMENT#ID`, the replica's name in Ray without its prefix.

    A restarted replica has another id, so it is another worker: nothing has to be kept in step as
    replicas come and go.
    """
    return str(replica_id.to_full_id_str()).partition("::")[2]


def own_worker_id() -> str:
    """The worker id of the replica in which this runs.

    Raises
    ------
    ray.serve.exceptions.RayServeException
        Not called within a replica.
    """
    return worker_id(serve.get_replica_context().replica_id)
