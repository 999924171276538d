"""`eldr doctor`: daemons that are away, refuse this caller, or are not trusted; and strangers."""

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from daemon import running_daemon
from deployment import bad
from grpc_health.v1 import health, health_pb2_grpc
from otlp_receiver import running_receiver
from wire import Client, eventually


def test_no_daemon(examined, eldr_at):
    found = examined("127.0.0.1:1", code=1)
    assert bad(found) == {"reached"}
    assert found["reached", ""]["words"] == "127.0.0.1:1: nothing listens there"
    assert found["credentials", ""]["outcome"] == "unknown"
    said = eldr_at("127.0.0.1:1")
    assert "start with reached" in said("doctor", code=1, on_stdout=True)


def test_a_daemon_that_says_nothing(examined):
    with socket.create_server(("127.0.0.1", 0)) as hole:
        at = f"127.0.0.1:{hole.getsockname()[1]}"
        begun = time.monotonic()
        found = examined(at, "--timeout", "0.5", code=1, http=at)
        assert time.monotonic() - begun < 15
    assert "gave no answer within 0.5 s" in found["reached", ""]["words"]
    assert found["http", ""]["outcome"] == "fault"


def test_one_replica_is_away(deployment, examined):
    daemon, _ = deployment
    found = examined(f"{daemon.grpc},127.0.0.1:1", code=0, http=daemon.http)
    assert "127.0.0.1:1: nothing listens" in found["reached", ""]["words"]


def test_a_token_that_is_none(secured_alone, as_role, examined):
    own = (*as_role("admin").options[:-1], "of-nobody-0123456789")
    found = examined(secured_alone, code=1, own=own)
    assert found["reached", ""]["outcome"] == "ok"
    assert "unknown token" in found["credentials", ""]["words"]
    assert "--token-file" in found["credentials", ""]["fix"]
    found = examined(secured_alone, code=0, own=as_role("admin").options)
    assert "UNAUTHENTICATED" in found["refusals", ""]["words"]


def test_a_role_that_may_not(secured_alone, as_role, examined):
    found = examined(secured_alone, code=1, own=as_role("route").options)
    assert "lacks the role" in found["credentials", ""]["words"]
    assert "admin" in found["credentials", ""]["fix"]
    assert "credentials" in bad(found)


def test_tls_that_does_not_agree(secured_alone, certificate, as_role, examined, tmp_path):
    found = examined(secured_alone, code=1)
    assert "speaks TLS, and this call did not" in found["reached", ""]["words"]
    cert, _ = certificate
    found = examined(secured_alone, code=1, own=("--tls-ca", cert))
    assert "without a certificate" in found["reached", ""]["words"]
    with running_daemon() as plain:
        found = examined(plain, code=1, own=("--tls-ca", cert))
        assert "speaks no TLS" in found["reached", ""]["words"]
    found = examined(
        secured_alone.grpc.replace("127.0.0.1", "localhost"), code=1, own=("--tls-ca", cert)
    )
    assert "is not trusted" in found["reached", ""]["words"]
    found = examined(secured_alone, code=0, own=as_role("admin").options)
    assert "ends in" in found["certificate", ""]["words"]  # the test's is good for an hour


def test_a_daemon_that_shuts_down(examined, url):
    with running_daemon("--drain-seconds", "600") as daemon, Client(daemon.grpc) as client:
        client.register("m", url=url)
        client.route("m", "long")
        daemon.process.send_signal(signal.SIGTERM)
        eventually(lambda: examined(daemon)["reached", ""]["outcome"] == "fault")
        told = examined(daemon, code=1)
        client.release("m", "long")
    found = told["reached", ""]
    assert told["state", ""]["words"].endswith("--state is :memory:")  # which is all about it
    assert found["words"] == "it answers, and says NOT_SERVING: it is shutting down"
    assert "wait for its restart" in found["fix"]


def test_the_port_of_http_is_no_port_of_grpc(deployment, examined):
    daemon, _ = deployment
    found = examined(daemon.http, code=1, http=daemon.grpc)
    assert "not eldr-server's gRPC" in found["reached", ""]["words"]
    assert "gRPC port, not its HTTP" in found["reached", ""]["fix"]
    assert found["http", ""]["outcome"] == "fault"


def is_a_stranger(found):
    assert bad(found) == {"reached"}
    assert found["reached", ""]["words"] == "a gRPC server answers, but it is not eldr-server"
    assert "eldr-server's --listen" in found["reached", ""]["fix"]
    assert {found[name, ""]["outcome"] for name in ("credentials", "models")} == {"unknown"}


def test_a_grpc_server_of_another_kind(examined):
    """A collector of traces: to a call that it does not know it answers UNIMPLEMENTED."""
    with running_receiver() as collector:
        is_a_stranger(examined(collector.endpoint.removeprefix("http://"), code=1))


def test_a_grpc_server_of_another_kind_that_tells_its_health(examined):
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        is_a_stranger(examined(f"127.0.0.1:{port}", code=1))
    finally:
        server.stop(0).wait()


def test_the_port_without_administration(examined):
    with running_daemon("--admin-listen", "127.0.0.1:0") as daemon:
        found = examined(daemon, code=1)
        assert bad(found) == {"credentials", "state"}  # which is in memory
        assert "does not serve partitions and policies" in found["credentials", ""]["words"]
        assert "--admin-listen" in found["credentials", ""]["fix"]
        assert examined(daemon.admin, code=0)["credentials", ""]["outcome"] == "ok"


def test_metrics_that_cannot_be_read(deployment, examined):
    """It is not known where they are: that is no fault, and the checks that need them say so."""
    daemon, _ = deployment
    found = examined(daemon.grpc, code=0)
    unknown = {name for (name, _), each in found.items() if each["outcome"] == "unknown"}
    assert {"http", "state", "discovery", "refusals", "signatures", "releases"} <= unknown
    assert all("--http" in found[name, ""]["fix"] for name in ("http", "state"))
