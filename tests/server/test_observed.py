"""What logs and metrics say of requests that were really made."""

import platform
import urllib.request
from importlib.metadata import version

import pytest
from daemon import running_daemon
from eldr.v1 import router_pb2
from prometheus_client.parser import text_string_to_metric_families
from wire import Client, Refused, counts, drawn, eventually


@pytest.fixture(scope="module")
def watched():
    """A daemon that has placed some requests, and its metrics as {name: {labels: value}}."""
    with (
        running_daemon("--log-format", "json", "--log-level", "debug") as daemon,
        Client(daemon.grpc) as client,
    ):
        for worker_id in ("w0", "w1", "w2"):
            client.register("m", worker_id)
        client.fit("m", kinds=2)
        for number in range(5):
            client.route("m", f"r{number}", counts=counts(drawn(number % 2)), num_sequences=2)
        client.route("m", "r0", counts=counts(drawn(0)), num_sequences=2)  # a repeat
        client.route("m", "dry", dry_run=True)
        client.route("m", "bare")
        client.release("m", "r0", outcome=router_pb2.RELEASE_OUTCOME_CANCELLED)
        client.release("m", "r1")
        client.router.RegisterSignature(
            router_pb2.RegisterSignatureRequest(
                model="m", request_id="held", counts=counts(drawn(0))
            )
        )
        for _ in range(3):
            with Refused("INVALID_ARGUMENT"):
                client.route("m", "")
        wrong = router_pb2.RouteStreamRequest(model="unknown", request_id="r")
        list(client.router.RouteStream(iter([wrong]), timeout=20))
        eventually(lambda: any(line["event"] == "refused" and "RouteStream" in line["method"]
                               for line in daemon.logs))  # fmt: skip
        text = urllib.request.urlopen(f"http://{daemon.http}/metrics", timeout=10).read().decode()
        metrics = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = tuple(sorted(sample.labels.items()))
                metrics.setdefault(sample.name, {})[labels] = sample.value
        yield client.workers("m"), metrics, daemon.logs


def labelled(**labels):
    return tuple(sorted(labels.items()))


def test_gauges_tell_the_truth(watched):
    workers, metrics, _ = watched
    for name, worker in workers.items():
        labels = labelled(model="m", worker=name)
        assert metrics["eldr_worker_booked_sequences"][labels] == worker.booked_sequences
        assert metrics["eldr_worker_load"][labels] == worker.load
    assert sum(metrics["eldr_worker_booked_sequences"].values()) == 3 * 2 + 1
    assert metrics["eldr_leases"][labelled(model="m")] == 4
    assert metrics["eldr_partition_version"][labelled(model="m")] == 1
    assert metrics["eldr_workers"][labelled(model="m", state="READY")] == 3
    assert metrics["eldr_signatures_held"][()] == 1
    assert metrics["eldr_signature_bytes"][()] > 0


def test_counters_count_once(watched):
    _, metrics, _ = watched
    by_reason = {}
    for labels, value in metrics["eldr_placements_total"].items():
        reason = dict(labels)["reason"]
        by_reason[reason] = by_reason.get(reason, 0) + value
    assert by_reason == {"LOCALITY_BAND": 5, "LEAST_LOADED_NO_SIGNATURE": 1}
    assert metrics["eldr_decision_seconds_count"][()] == 6
    assert metrics["eldr_decision_seconds_sum"][()] < 6
    assert metrics["eldr_releases_total"] == {
        labelled(model="m", outcome="CANCELLED"): 1,
        labelled(model="m", outcome="COMPLETED"): 1,
    }
    assert metrics["eldr_bookings_ended_total"] == {labelled(model="m", how="RELEASED"): 2}
    service = "eldr.v1.RouterService"
    assert metrics["eldr_errors_total"] == {
        labelled(method=f"{service}/Route", code="INVALID_ARGUMENT"): 3,
        labelled(method=f"{service}/RouteStream", code="UNAVAILABLE"): 1,
    }
    assert metrics["eldr_rpc_seconds_count"][labelled(method=f"{service}/Route")] == 11
    assert metrics["eldr_rpc_seconds_count"][labelled(method=f"{service}/Release")] == 2


def test_what_runs_and_what_decides(watched):
    _, metrics, _ = watched
    [built] = metrics["eldr_build_info"]
    assert dict(built)["version"] == version("eldr-service")
    assert dict(built)["python"] == platform.python_version()
    assert dict(built)["target"]
    [policy] = metrics["eldr_policy_info"]
    assert dict(policy)["policy"] == "locality-band"
    assert "tau=0.1" in dict(policy)["parameters"].split(",")
    assert metrics["eldr_placement_signatures_total"] == {
        labelled(model="m", signature="CALLER"): 5,
        labelled(model="m", signature="NONE"): 1,
    }
    assert not [name for name in metrics if name.endswith("_created")]


def test_each_decision_has_its_log_line(watched):
    _, _, logs = watched
    placed = [line for line in logs if line["event"] == "placed"]
    assert [line["request_id"] for line in placed] == ["r0", "r1", "r2", "r3", "r4", "r0", "bare"]
    for line in placed:
        assert line["model"] == "m"
        assert line["worker"] in ("w0", "w1", "w2")
        assert line["level"] == "debug"
        assert line["timestamp"].endswith("Z")
    assert [line["reason"] for line in placed[-2:]] == [
        "LOCALITY_BAND",
        "LEAST_LOADED_NO_SIGNATURE",
    ]
    assert [line["repeated"] for line in placed] == [False] * 5 + [True, False]
    released = [line for line in logs if line["event"] == "released"]
    assert [(line["request_id"], line["outcome"]) for line in released] == [
        ("r0", "CANCELLED"),
        ("r1", "COMPLETED"),
    ]
    refused = [(line["method"], line["code"]) for line in logs if line["event"] == "refused"]
    assert ("eldr.v1.RouterService/RouteStream", "UNAVAILABLE") in refused
