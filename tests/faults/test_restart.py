"""What a restarted daemon makes of the bookings that it finds."""

import signal
import time
from contextlib import contextmanager

import pytest
from daemon import running_daemon
from eldr.v1 import fleet_pb2, router_pb2
from google.protobuf.duration_pb2 import Duration
from wire import GEOMETRY, LAYERS, Client, Refused, counts, drawn, eventually

FLEET = (
    '[[workers]]\nmodel = "m"\nworker_id = "s"\nurl = "http://s:8000"\n'
    f"geometry = {{ num_layers = {LAYERS}, num_experts = 16, top_k = 2 }}\n"
)


@contextmanager
def serving(folder, *flags):
    with running_daemon("--state", str(folder), *flags) as daemon, Client(daemon.grpc) as client:
        yield client
        daemon.process.send_signal(signal.SIGKILL)
        daemon.process.wait()


def report(client, life, held, number, worker="a"):
    request = fleet_pb2.ReportLoadRequest(
        model="m", worker_id=worker, incarnation=life, report_number=number
    )
    for request_id in held:
        request.held.add(request_id=request_id)
    return client.fleet.ReportLoad(request)


def test_a_repeat_is_answered_as_before_and_another_payload_refused(tmp_path):
    fields = {
        "counts": counts(drawn(0)),
        "labels": {"domain": "code", "tenant": "x"},
        "exclude_workers": ["y", "z"],
        "num_sequences": 3,
    }
    with serving(tmp_path) as client:
        for worker in "abc":
            client.register("m", worker)
        client.fit("m")
        first = client.route("m", "r", **fields)
        client.route("m", "higher", attempt=1)
        client.route("m", "higher", attempt=2)
        client.release("m", "early")
    with serving(tmp_path) as client:
        again = client.route("m", "r", **fields)
        assert again.repeated
        for unlike in ("repeated", "lease_expire_time", "lease_remaining"):
            first.ClearField(unlike)
            again.ClearField(unlike)
        assert again == first
        assert client.booked("m") == 3 + 1
        with Refused("FAILED_PRECONDITION"):
            client.route("m", "r", **{**fields, "counts": counts(drawn(1))})
        for attempt in (0, 1):
            with Refused("FAILED_PRECONDITION"):
                client.route("m", "higher", attempt=attempt)
        with Refused("FAILED_PRECONDITION"):
            client.route("m", "early")
        assert client.release("m", "r", lease_id=again.lease_id) == "RELEASED"
        assert client.release("m", "higher", attempt=2) == "RELEASED"
        assert client.booked("m") == 0
    with serving(tmp_path) as client:
        assert client.booked("m") == 0
        assert client.release("m", "r") == "ALREADY_RELEASED"


def test_reports_settle_what_went_on_without_the_daemon(tmp_path):
    with serving(tmp_path) as client:
        life = client.register("m", "a")
        for request_id in ("runs", "finished", "comes"):
            client.route("m", request_id, prompt_tokens=10, expected_output_tokens=5)
        report(client, life, ["runs", "finished"], 1)
        client.route("m", "last")  # its commit holds what the report said, too
    with serving(tmp_path) as client:
        assert client.booked("m") == 4
        for number in (1, 2):
            answer = report(client, life, ["runs", "stranger"], number)
            assert answer.accepted
            assert [held.request_id for held in answer.unknown] == ["stranger"]
        assert client.release("m", "finished") == "ALREADY_RELEASED"
        assert client.booked("m") == 3  # "comes" and "last" are on their way to the worker
        for request_id in ("runs", "comes", "last"):
            assert client.release("m", request_id) == "RELEASED"


def test_a_worker_that_registers_again_has_none_of_them(tmp_path):
    with serving(tmp_path) as client:
        client.register("m", "a")
        client.register("m", "b")
        placed = [client.route("m", f"r{number}").worker_id for number in range(4)]
    with serving(tmp_path) as client:
        client.register("m", "a")
        assert {n: w.booked_sequences for n, w in client.workers("m").items()} == {"a": 0, "b": 2}
    with serving(tmp_path) as client:
        assert client.booked("m") == 2
        for number, worker in enumerate(placed):
            expected = "ALREADY_RELEASED" if worker == "a" else "RELEASED"
            assert client.release("m", f"r{number}") == expected


def test_a_worker_of_the_fleet_file_keeps_them(tmp_path):
    file = tmp_path / "fleet.toml"
    file.write_text(FLEET)
    for number in range(3):
        with serving(tmp_path, "--fleet", str(file)) as client:
            assert client.booked("m") == number
            client.route("m", f"r{number}")
    file.write_text(FLEET.replace('"s"', '"t"'))
    with serving(tmp_path, "--fleet", str(file)) as client:
        assert client.booked("m") == 0
        assert client.route("m", "r0").worker_id == "t"


def test_what_could_not_be_renewed_without_a_daemon_has_some_time(tmp_path):
    with serving(tmp_path) as client:
        client.register("m", "a")
        client.route("m", "short", lease_ttl=Duration(seconds=2))
        client.route("m", "renewed", lease_ttl=Duration(seconds=3))
    time.sleep(3)  # longer than two of them, which had nowhere to be renewed
    with serving(tmp_path) as client:
        assert client.booked("m") == 2
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            lease = router_pb2.LeaseReference(request_id="renewed")
            request = router_pb2.RenewLeasesRequest(model="m", leases=[lease])
            assert not client.router.RenewLeases(request).unknown
            time.sleep(0.2)
        eventually(lambda: client.booked("m") == 1)
        assert client.release("m", "renewed") == "RELEASED"
        assert client.release("m", "short") == "ALREADY_RELEASED"


@pytest.mark.parametrize("policy", ["marginal-cost", "locality-band"])
def test_the_policy_sees_the_same_fleet(tmp_path, policy):
    """A dry run predicts from bookings: the same before and after, with and without counts."""

    def scores(client):
        request = {"counts": counts(drawn(3)), "dry_run": True}
        return list(client.route("m", "x", **request).scores)

    with serving(tmp_path, "--policy", policy) as client:
        for worker in "abcd":
            client.register("m", worker, geometry=GEOMETRY)
        client.fit("m", kinds=4)
        for number in range(24):
            client.route("m", f"r{number}", counts=counts(drawn(number % 4, number)))
        for number in range(0, 24, 3):
            client.release("m", f"r{number}")
        before = scores(client)
    with serving(tmp_path, "--policy", policy) as client:
        after = scores(client)
        assert [s.load for s in after] == [s.load for s in before]
        assert [s.similarity for s in after] == [s.similarity for s in before]
        predicted = [s.predicted_active_experts for s in after]
        assert predicted == pytest.approx([s.predicted_active_experts for s in before], rel=0.05)
        assert any(predicted) == (policy == "marginal-cost")
