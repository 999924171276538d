"""`eldr doctor`: faults planted in a real deployment, and one where there is nothing to find."""

import os
import shutil
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distribution, version

import grpc
import pytest
from daemon import running_daemon
from eldr.v1 import activation_pb2, fleet_pb2
from google.protobuf.duration_pb2 import Duration
from wire import Client, counts, drawn, eventually

OURS = version("eldr-service")
CAPTURING = fleet_pb2.CaptureStatus(
    state="CAPTURE_STATE_CAPTURING", known_tokens=90, software=f"eldr-vllm {OURS}"
)


class Well(BaseHTTPRequestHandler):
    """As much of an engine as says that it is well."""

    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def engine():
    """Its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Well)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def url():
    with engine() as url:
        yield url


def worker(client, worker_id, url, capture=CAPTURING, **fields):
    """Registers and reports once; its incarnation."""
    incarnation = client.register("m", worker_id, url=url, **fields)
    client.fleet.ReportLoad(
        fleet_pb2.ReportLoadRequest(
            model="m",
            worker_id=worker_id,
            incarnation=incarnation,
            report_number=1,
            capture=capture,
        )
    )
    return incarnation


def serve(client, number, *, signatures=True, released=True, **fields):
    """Places that many requests, of two kinds."""
    for i in range(number):
        known = {"counts": counts(drawn(i % 2, i))} if signatures else {}
        client.route("m", f"r{i}", **known, **fields)
        if released:
            client.release("m", f"r{i}")


@pytest.fixture
def deployment(tmp_path, url):
    """A daemon with two workers that are well, and a partition; its client."""
    flags = "--state", str(tmp_path), "--report-limit", "60"
    with running_daemon(*flags) as daemon, Client(daemon.grpc) as client:
        for worker_id in ("w0", "w1"):
            worker(client, worker_id, url)
        client.fit("m")
        yield daemon, client


@pytest.fixture
def examined(eldr_at):
    """Runs `eldr doctor --json`: the checks by name and subject, of which `code` says the worst."""

    def run(daemon, *options, code, http="", own=()):
        eldr = eldr_at(daemon if isinstance(daemon, str) else daemon.grpc, own)
        at = http or ("" if isinstance(daemon, str) else daemon.http)
        told = eldr.json("doctor", *(("--http", at) if at else ()), *options, code=code)
        assert told["fault"] == 0 or code == 1
        found = {(each["check"], each["subject"]): each for each in told["checks"]}
        assert len(found) == len(told["checks"])
        assert all(each["fix"] for each in found.values() if each["outcome"] in BAD)
        assert "the check itself failed" not in str(told)
        return found

    return run


BAD = ("warning", "fault")


def bad(found):
    return {name for (name, _), each in found.items() if each["outcome"] in BAD}


def test_nothing_is_found_where_all_is_well(deployment, examined, eldr_at):
    daemon, client = deployment
    serve(client, 40)
    found = examined(daemon, code=0)
    assert {each["outcome"] for each in found.values()} == {"ok"}, found
    assert len(found) == 25
    said = eldr_at(daemon.grpc)("doctor", "--http", daemon.http)
    assert said.splitlines()[-1] == "0 faults, 0 warnings, 0 not checked, 25 ok"


def test_no_daemon(examined, eldr_at):
    found = examined("127.0.0.1:1", code=1)
    assert bad(found) == {"reached"}
    assert found["reached", ""]["words"] == "127.0.0.1:1: nothing listens there"
    assert found["credentials", ""]["outcome"] == "unknown"
    said = eldr_at("127.0.0.1:1")
    assert "begin with reached" in said("doctor", code=1, on_stdout=True)


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
    assert "is not believed" in found["reached", ""]["words"]
    found = examined(secured_alone, code=0, own=as_role("admin").options)
    assert "ends in" in found["certificate", ""]["words"]  # the test's is good for an hour


def test_an_engine_that_is_dead(deployment, examined):
    daemon, client = deployment
    with engine() as dead:
        pass
    worker(client, "w1", dead)
    found = examined(daemon, code=1)["urls", "m"]
    assert f"w1 ({dead}/health: nothing listens there)" in found["words"]
    assert "w0" not in found["words"]
    assert "eldr workers remove w1 --model m" in found["fix"]


def test_a_worker_that_fell_silent(deployment, examined):
    daemon, client = deployment
    worker(client, "w1", "http://127.0.0.1:1", time_to_live=Duration(nanos=300_000_000))
    eventually(lambda: "w1" not in client.workers("m"))
    found = examined(daemon, code=0)
    assert found["expired", "m"]["outcome"] == "warning"
    assert "w1 fell silent" in found["expired", "m"]["words"]
    assert found["slots", "m"]["outcome"] == "warning"
    worker(client, "w1", client.workers("m")["w0"].url)
    assert examined(daemon, code=0)["expired", "m"]["outcome"] == "ok"
    client.fleet.RemoveWorker(fleet_pb2.RemoveWorkerRequest(model="m", worker_id="w1"))
    assert examined(daemon, code=0)["expired", "m"]["outcome"] == "ok"


def test_a_worker_that_flaps(deployment, examined, url):
    daemon, client = deployment
    for _ in range(3):
        worker(client, "w1", url)
    found = examined(daemon, code=0)["standing", "m"]
    assert found["outcome"] == "warning"
    assert "w1 left and came back again and again" in found["words"]


def test_a_model_that_is_unknown(deployment, examined):
    daemon, _ = deployment
    found = examined(daemon, "--model", "other", code=1)
    assert "other" in found["models", ""]["words"]
    assert found["credentials", ""]["outcome"] == "ok"
    with running_daemon() as empty:
        assert examined(empty, code=0)["models", ""]["outcome"] == "unknown"


def test_all_drain(deployment, examined):
    daemon, client = deployment
    for worker_id in ("w0", "w1"):
        client.fleet.DrainWorker(fleet_pb2.DrainWorkerRequest(model="m", worker_id=worker_id))
    found = examined(daemon, code=1)["accepting", "m"]
    assert found["outcome"] == "fault"
    assert "2 DRAINING" in found["words"]


def test_an_engine_that_does_not_capture(deployment, examined, url):
    daemon, client = deployment
    reason = "layer 3 routes in a fused kernel"
    stopped = fleet_pb2.CaptureStatus(state="CAPTURE_STATE_STOPPED", reason=reason)
    worker(client, "w1", url, stopped)
    found = examined(daemon, code=0)["capture", "m"]
    assert (found["outcome"], found["words"]) == ("warning", f"nothing on w1: {reason}")
    worker(client, "w0", url, stopped)
    found = examined(daemon, code=1)["capture", "m"]
    assert found["words"] == f"nothing on w0, w1: {reason}; all go by load"


def test_no_partition_and_none_to_come(examined, url):
    with running_daemon("--refit", "off") as daemon, Client(daemon.grpc) as client:
        for worker_id in ("w0", "w1"):
            worker(client, worker_id, url)
        found = examined(daemon, code=1)["partition", "m"]
    assert "none is fitted by itself" in found["words"]
    assert "eldr partition refit auto --model m" in found["fix"]


def test_a_partition_of_another_shape(deployment, examined, url):
    daemon, client = deployment
    other = activation_pb2.ModelGeometry(num_layers=7, num_experts=16, top_k=2)
    with pytest.raises(grpc.RpcError):
        client.register("m", "w2", url=url, geometry=other)
    found = examined(daemon, code=1)["refusals", ""]
    assert "1 registration of workers refused" in found["words"]
    assert "shape" in found["words"]


def test_signatures_that_do_not_come(deployment, examined):
    daemon, client = deployment
    serve(client, 30, signatures=False)
    found = examined(daemon, code=1)
    assert bad(found) == {"signatures"}
    told = "100% of 30 placements since the daemon's start had no signature: by load alone"
    assert found["signatures", "m"]["words"] == told
    found = examined(daemon, "--watch", "0.2", code=0)["signatures", "m"]
    assert found["words"] == "nothing was placed in the 0.2 s watched"


def test_releases_that_do_not_come(deployment, examined):
    daemon, client = deployment
    serve(client, 12, released=False, lease_ttl=Duration(seconds=1))
    eventually(lambda: not client.booked("m"))
    found = examined(daemon, code=1)
    assert bad(found) == {"releases"}
    told = "100% of 12 bookings that ended since the daemon's start did so by their lease"
    assert found["releases", "m"]["words"].startswith(told)


def test_a_clock_that_is_apart(deployment, examined, monkeypatch):
    daemon, _ = deployment
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 30)
    found = examined(daemon, code=0)["clock", ""]
    assert found["outcome"] == "warning"
    assert found["words"].endswith("s behind this one")
    monkeypatch.setattr(time, "time", lambda: right() + 3_600)
    found = examined(daemon, code=1)["clock", ""]
    assert found["words"] == "the daemon's is 60 min behind this one"
    found = examined(daemon.grpc, code=1)["clock", ""]  # by reports: there is no HTTP at 9464
    assert found["words"] == "the daemon's is 60 min behind this one"


def test_a_daemon_of_another_version(tmp_path, examined):
    other = tmp_path / "eldr_service-99.0.0.dist-info"
    shutil.copytree(
        distribution("eldr-service").locate_file(f"eldr_service-{OURS}.dist-info"), other
    )
    metadata = (other / "METADATA").read_text()
    (other / "METADATA").write_text(metadata.replace(f"\nVersion: {OURS}", "\nVersion: 99.0.0"))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with running_daemon(env={"PYTHONPATH": path}) as daemon:
        found = examined(daemon, code=1)["versions", ""]
    assert "99.0.0" in found["words"]
    assert f"this eldr is {OURS}" in found["words"]


def test_an_engine_of_another_version(deployment, examined, url):
    daemon, client = deployment
    other = fleet_pb2.CaptureStatus(
        state="CAPTURE_STATE_CAPTURING", known_tokens=9, software="eldr-vllm 0.0.9"
    )
    worker(client, "w1", url, other)
    found = examined(daemon, code=0)["versions", "m"]
    assert found["outcome"] == "warning"
    assert found["words"] == f"what captures is 0.0.9 at w1; this eldr is {OURS}"
