"""Attributes of spans, with OpenTelemetry's names where it has any; never a prompt or a secret."""

from eldr_client.placement import Placement
from eldr_client.traces import Value

Attributes = dict[str, Value | None]


def request(model: str, request_id: str, attempt: int | None = None) -> Attributes:
    """The request that a span is about."""
    return {
        "gen_ai.request.model": model,
        "eldr.request_id": request_id,
        "eldr.attempt": attempt,
    }


def call(method: str) -> Attributes:
    """A call to the router, or a message of a stream."""
    return {"rpc.system.name": "grpc", "rpc.method": f"eldr.v1.RouterService/{method}"}


def placement(placed: Placement) -> Attributes:
    """Where a request decodes, and why."""
    attributes: Attributes = {
        "eldr.worker_id": placed.worker_id,
        "eldr.reason": placed.reason.value,
        "eldr.lease_id": placed.lease_id,
    }
    if placed.policy:  # else a prefill engine handed it over, whose span has the rest
        attributes |= {
            "eldr.policy": placed.policy,
            "eldr.similarity": placed.similarity,
            "eldr.coverage": placed.coverage,
            "eldr.signature_source": placed.signature_source.value,
            "eldr.partition_version": placed.partition_version or None,
            "eldr.early": placed.early,
            "eldr.repeated": placed.repeated,
        }
    return attributes
