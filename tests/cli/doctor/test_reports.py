"""`eldr doctor`: workers that say late, never or badly how they stand."""

from daemon import running_daemon
from deployment import report, worker
from google.protobuf.duration_pb2 import Duration
from wire import Client

LAST_CHOICE = "requests go there only if no other worker can take them"


def test_reports_that_come_late(url, becomes):
    flags = "--report-interval", "0.1", "--report-limit", "0.2", "--suspect-after", "600"
    with running_daemon(*flags) as daemon, Client(daemon.grpc) as client:
        worker(client, "w0", url)
        found = becomes("warning", "reports", daemon, "m")
    assert found["words"] == "reports of w0 are late: only bookings count as load there"
    assert "Look at its log" in found["fix"]


def test_a_worker_that_never_reported(deployment, becomes, url):
    daemon, client = deployment
    client.register("m", "w2", url=url)
    found = becomes("warning", "reports", daemon, "m")
    assert found["words"] == "w2 never reported, while others do"
    assert "kv-transfer-config" in found["fix"]


def test_a_worker_that_is_silent(url, becomes):
    flags = "--report-interval", "0.1", "--report-limit", "0.2", "--suspect-after", "0.4"
    with running_daemon(*flags) as daemon, Client(daemon.grpc) as client:
        worker(client, "w0", url, time_to_live=Duration(seconds=600))
        found = becomes("warning", "standing", daemon, "m")
    assert found["words"] == f"w0 is silent: {LAST_CHOICE}"
    assert "the network to it" in found["fix"]


def test_a_worker_that_fails_its_requests(deployment, becomes):
    """It reports, so it is not silent."""
    daemon, client = deployment
    for number in range(3):
        client.route("m", f"r{number}", pinned_worker="w1")
        client.release("m", f"r{number}", outcome="RELEASE_OUTCOME_FAILED")
    found = becomes("warning", "standing", daemon, "m")
    assert found["words"] == f"w1 failed its last requests: {LAST_CHOICE}"
    assert "look at its log" in found["fix"]


def test_a_worker_that_is_slower_than_its_peers(deployment, becomes):
    daemon, client = deployment
    lives = {name: client.workers("m")[name].incarnation for name in ("w0", "w1")}
    for number in range(2, 90):
        for name, life in lives.items():
            batch = 4 + number % 5
            step = Duration(nanos=(2 + batch) * 1_000_000 * (3 if name == "w1" else 1))
            report(client, name, life, number, batch_size=batch, active_experts=6, step_time=step)
    found = becomes("warning", "standing", daemon, "m")
    assert found["words"] == "w1 is slower than the others"
    assert "eldr workers drain ID" in found["fix"]
