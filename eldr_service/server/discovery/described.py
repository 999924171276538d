"""A worker as its source describes it, checked like one that registers."""

from collections.abc import Mapping

from eldr.v1 import fleet_pb2

from eldr_service.core.worker import WorkerState
from eldr_service.server.discovery.source import Found, Key
from eldr_service.server.origins import Traits
from eldr_service.server.rpc import reading


def described(
    traits: Traits,
    worker_id: str,
    endpoint: str,
    default_capacity: int,
    labels: Mapping[str, str] | None = None,
    state: WorkerState = WorkerState.READY,
) -> tuple[Key, Found]:
    """Make a worker from its source's description; `endpoint` is its HOST:PORT.

    Raises
    ------
    InvalidArgumentError
        A field is wrong, or the model is missing.
    """
    request = fleet_pb2.RegisterWorkerRequest(
        worker_id=worker_id,
        model=traits.model,
        role=int(traits.role),  # type: ignore[arg-type]
        url=f"{traits.scheme}://{endpoint}",
        group=traits.group,
        labels=labels or {},
        capacity=fleet_pb2.WorkerCapacity(sequences=traits.sequences, kv_tokens=traits.kv_tokens),
    )
    spec = reading.worker_spec(request, default_capacity)
    model = reading.model_name(request)
    return (model, spec.worker_id), Found(spec, traits.geometry, state)
