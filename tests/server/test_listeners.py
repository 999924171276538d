"""Administration has a port of its own where it is asked for."""

import subprocess

import grpc
import pytest
from certificates import issue
from daemon import command, running_daemon
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from wire import METHODS, Client, Refused, path_of


def administrative(method) -> bool:
    service = method.containing_service.name
    return service in ("PartitionService", "PolicyService") or method.name in (
        "DrainWorker",
        "RemoveWorker",
    )


@pytest.fixture(scope="module")
def daemon():
    with running_daemon("--admin-listen", "127.0.0.1:0", "--log-format", "json") as daemon:
        yield daemon


def end_of(client, method):
    try:
        answer = client.call(method, b"\xff\xff")
        list(answer if method.server_streaming else [])
    except grpc.RpcError as error:
        return error.code().name
    return None


@pytest.mark.parametrize("method", METHODS, ids=path_of)
def test_each_port_has_its_methods_and_no_others(daemon, method):
    with Client(daemon.grpc) as client:
        left_out = "UNIMPLEMENTED" if administrative(method) else "INVALID_ARGUMENT"
        assert end_of(client, method) == left_out
    with Client(daemon.admin) as client:
        assert end_of(client, method) == "INVALID_ARGUMENT"


def test_both_ports_serve_one_fleet_health_and_reflection(daemon):
    with Client(daemon.grpc) as client, Client(daemon.admin) as admin:
        client.register("m", "w0")
        assert set(admin.workers("m")) == set(client.workers("m")) == {"w0"}
        admin.fit("m")
        for each in (client, admin):
            assert each.health.Check(health_pb2.HealthCheckRequest()).status == 1
        served = ProtoReflectionDescriptorDatabase(client.channel).get_services()
        assert "eldr.v1.RouterService" in served
        assert "eldr.v1.PolicyService" not in served
        assert "eldr.v1.PolicyService" in (
            ProtoReflectionDescriptorDatabase(admin.channel).get_services()
        )
        with Refused("UNIMPLEMENTED"):
            client.fit("m")


def test_an_admin_port_beyond_loopback_wants_credentials_too(tmp_path):
    arguments = command("--admin-listen", "0.0.0.0:0", "--state", ":memory:")
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "--admin-listen 0.0.0.0:0 is not a loopback address" in ended.stderr


def test_the_certificate_serves_both_ports(tmp_path):
    authority = issue("authority")
    certificate, key = issue("server", authority).write(tmp_path, "server")
    flags = ("--tls-cert", str(certificate), "--tls-key", str(key))
    with running_daemon(*flags, "--admin-listen", "127.0.0.1:0") as daemon:
        for address in (daemon.grpc, daemon.admin):
            credentials = grpc.ssl_channel_credentials(authority.chain)
            with Client(address, credentials=credentials) as client:
                assert client.health.Check(health_pb2.HealthCheckRequest()).status == 1


def test_garbage_leaves_no_traceback(daemon):
    assert "Traceback" not in daemon.said
