"""`eldr workers drain`, against the real daemon."""

import threading
import time

import grpc
import pytest
from eldr.v1 import fleet_pb2, fleet_pb2_grpc, router_pb2, router_pb2_grpc
from google.protobuf.duration_pb2 import Duration


@pytest.fixture
def channel(daemon):
    with grpc.insecure_channel(daemon.grpc) as channel:
        yield channel


def book(channel, request_id, worker):
    router_pb2_grpc.RouterServiceStub(channel).Route(
        router_pb2.RouteRequest(model="m", request_id=request_id, pinned_worker=worker)
    )


def states(fleet):
    return {w["worker_id"]: w for w in fleet.json("workers", "list")["workers"]}


def test_a_drain_waits_until_its_worker_is_empty(fleet, channel):
    book(channel, "wait-1", "w0")
    stub = router_pb2_grpc.RouterServiceStub(channel)
    release = router_pb2.ReleaseRequest(model="m", request_id="wait-1")
    later = threading.Timer(0.8, stub.Release, [release])
    later.start()
    began = time.monotonic()
    assert fleet("workers", "drain", "w0", "--wait") == "drained w0 of m\n"
    assert time.monotonic() - began > 0.7
    later.join()
    assert states(fleet)["w0"]["drained"] is True
    assert "DRAINING, empty" in fleet("workers", "list")


def test_at_the_deadline_what_is_left_ends_and_is_placed_elsewhere(fleet, channel):
    book(channel, "deadline-1", "w0")
    fleet("workers", "drain", "w0", "--deadline", "30")
    assert 28 < float(states(fleet)["w0"]["drain_remaining"].rstrip("s")) <= 30
    assert " s left" in fleet("workers", "list")
    assert fleet("workers", "drain", "w0", "--deadline", "0.5", "--wait", "--remove") == (
        "drained w0 of m\n"
    )
    assert "w0" not in states(fleet)
    again = router_pb2.RouteRequest(model="m", request_id="deadline-1", attempt=1)
    assert router_pb2_grpc.RouterServiceStub(channel).Route(again).placement.worker_id != "w0"
    release = router_pb2.ReleaseRequest(model="m", request_id="deadline-1", attempt=1)
    router_pb2_grpc.RouterServiceStub(channel).Release(release)


def test_all_workers_of_a_label_drain(fleet):
    answer = fleet.json("workers", "drain", "--label", "zone=a", "--wait")
    assert [w["worker_id"] for w in answer["workers"]] == ["w0", "w2"]
    known = states(fleet)
    assert {name: known[name]["state"].removeprefix("WORKER_STATE_") for name in known} == {
        "w0": "DRAINING", "w1": "READY", "w2": "DRAINING"
    }  # fmt: skip


def test_a_role_narrows_it_down(fleet):
    add = "workers", "add", "p0", "--model", "m", "--url", "u", "--role", "prefill"
    fleet(*add, "--label", "zone=a")
    answer = fleet.json("workers", "drain", "--label", "zone=a", "--role", "prefill")
    assert [w["worker_id"] for w in answer["workers"]] == ["p0"]
    assert states(fleet)["w0"]["state"] == "WORKER_STATE_READY"


def test_a_wait_says_when_its_worker_begins_a_new_life(fleet, channel):
    book(channel, "back-1", "w0")
    add = "workers", "add", "w0", "--model", "m", "--url", "u", "--again"
    later = threading.Timer(0.6, fleet, add)
    later.start()
    assert "w0 registered again, and its new incarnation is not draining" in fleet(
        "workers", "drain", "w0", "--wait", code=1
    )
    later.join()


def test_drains_that_make_no_sense_are_refused(fleet):
    assert "expected one WORKER, or --label or --group" in fleet("workers", "drain", code=2)
    both = "workers", "drain", "w0", "--group", "g"
    assert "expected one WORKER" in fleet(*both, code=2)
    none = fleet("workers", "drain", "--label", "zone=x", code=1)
    assert "none of 3 workers has these labels, this group and role" in none
    assert "--deadline" in fleet("workers", "drain", "w0", "--deadline", "-1", code=2)


def test_a_deadline_of_years_is_refused(channel, fleet):
    request = fleet_pb2.DrainWorkerRequest(
        model="m", worker_id="w0", deadline=Duration(seconds=10**9)
    )
    with pytest.raises(grpc.RpcError, match="deadline: expected 0 to 86400 s"):
        fleet_pb2_grpc.FleetServiceStub(channel).DrainWorker(request)


def test_suspects_and_workers_held_down_are_marked(fleet, channel):
    add = "workers", "add", "w0", "--model", "m", "--url", "u", "--again"
    for _ in range(3):
        fleet(*add)
    assert "READY, held down " in fleet("workers", "list")
    worker = states(fleet)["w0"]
    assert worker["avoidance"] == "WORKER_AVOIDANCE_HELD_DOWN"
    assert float(worker["hold_down"].rstrip("s")) > 0
