"""A disk that cannot be written while the daemon serves: it says so, goes on, and catches up."""

import resource
import signal
import urllib.request

import pytest
from children import limits_files
from daemon import running_daemon
from eldr.v1 import fleet_pb2
from wire import Client, counts, drawn, eventually

ROOM = fleet_pb2.WorkerCapacity(sequences=1 << 20)
pytestmark = limits_files


def page(daemon, path) -> str:
    return urllib.request.urlopen(f"http://{daemon.http}{path}", timeout=10).read().decode()


def is_durable(daemon) -> bool:
    return "\neldr_bookings_durable 1.0\n" in page(daemon, "/metrics")


def kill(daemon) -> None:
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait()


@pytest.mark.parametrize("policy", ["locality-band", "marginal-cost"])
def test_decisions_go_on_without_the_disk_and_are_written_afterwards(tmp_path, policy):
    flags = ("--state", str(tmp_path), "--policy", policy, "--log-format", "json")
    with running_daemon(*flags) as daemon, Client(daemon.grpc) as client:
        client.register("m", "a", capacity=ROOM)
        client.register("m", "b", capacity=ROOM)
        client.fit("m")
        for number in range(20):
            assert not client.route("m", f"early{number}", counts=counts(drawn(0))).unsaved
        client.release("m", "early0")
        assert is_durable(daemon)
        assert page(daemon, "/healthz") == "ok\n"

        before = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (0, -1))
        client.route("m", "first")  # whose commit fails
        answers = [client.route("m", f"late{number}") for number in range(20)]
        assert all(answer.unsaved for answer in answers)
        assert client.release("m", "early1") == "RELEASED"
        assert not is_durable(daemon)
        assert "bookings are not written" in page(daemon, "/healthz")

        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, before)
        eventually(lambda: is_durable(daemon))
        # Its log is a file too, which missed the error.
        assert "bookings are written again" in [line["event"] for line in daemon.logs]
        assert not client.route("m", "after").unsaved
        held = {name: worker.booked_sequences for name, worker in client.workers("m").items()}
        assert sum(held.values()) == 18 + 1 + 20 + 1
        kill(daemon)
    with running_daemon(*flags) as daemon, Client(daemon.grpc) as client:
        assert {n: w.booked_sequences for n, w in client.workers("m").items()} == held
        for request_id in ("first", "after", *(f"late{number}" for number in range(20))):
            assert client.route("m", request_id).repeated
        for request_id in ("early0", "early1"):
            assert client.release("m", request_id) == "ALREADY_RELEASED"
