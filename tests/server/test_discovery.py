"""Health and reflection, for programs that know only gRPC's own conventions."""

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from wire import METHODS

SERVICES = {f"eldr.v1.{name}Service" for name in ("Router", "Fleet", "Partition", "Policy")}


def test_reflection_shows_the_whole_contract(client):
    known = ProtoReflectionDescriptorDatabase(client.channel)
    assert set(known.get_services()) == SERVICES | {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    pool = DescriptorPool(known)
    for method in METHODS:
        service = pool.FindServiceByName(method.containing_service.full_name)
        shown = service.methods_by_name[method.name]
        assert shown.input_type.full_name == method.input_type.full_name
        names = [(field.name, field.number) for field in shown.input_type.fields]
        assert names == [(field.name, field.number) for field in method.input_type.fields]


@pytest.mark.parametrize("service", ["", *sorted(SERVICES)])
def test_each_service_is_healthy(client, service):
    answer = client.health.Check(health_pb2.HealthCheckRequest(service=service))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_the_health_of_nothing_is_not_found(client):
    with pytest.raises(grpc.RpcError) as refused:
        client.health.Check(health_pb2.HealthCheckRequest(service="eldr.v1.Nothing"))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
