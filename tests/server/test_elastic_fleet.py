"""Workers that stall, repeat themselves, return, drain: the real daemon, real sessions, sockets."""

import signal
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from daemon import running_daemon
from eldr.v1 import fleet_pb2
from eldr_client import LoadReport, WorkerSession
from google.protobuf.duration_pb2 import Duration
from wire import Client, Refused, eventually

QUICK = ("--report-interval", "0.1", "--report-limit", "0.4", "--suspect-after", "0.8")
SUSPECT = fleet_pb2.WORKER_AVOIDANCE_SUSPECT
HELD_DOWN = fleet_pb2.WORKER_AVOIDANCE_HELD_DOWN


def scrape(daemon):
    return urllib.request.urlopen(f"http://{daemon.http}/metrics", timeout=10).read().decode()


class Engine:
    """What a worker holds, and whether it answers."""

    def __init__(self):
        self.held: list[tuple[str, int]] = []
        self.goes_on = threading.Event()
        self.goes_on.set()

    def __call__(self) -> LoadReport:
        self.goes_on.wait(60)
        return LoadReport(held=list(self.held), running_sequences=len(self.held))


@contextmanager
def session(daemon, worker_id, engine, time_to_live=30.0, **fields):
    worker = WorkerSession(
        worker_id,
        "m",
        f"http://{worker_id}",
        engine,
        target=daemon.grpc,
        time_to_live=time_to_live,
        **fields,
    )
    try:
        yield worker
    finally:
        engine.goes_on.set()
        worker.close()


def ready(client, *workers):
    def are():
        known = client.workers()
        return all(w in known and known[w].state == fleet_pb2.WORKER_STATE_READY for w in workers)

    eventually(are)


def test_a_dead_worker_that_seems_to_have_room_attracts_three_requests_and_no_more():
    with running_daemon() as daemon, Client(daemon.grpc) as client:
        for worker in ("dead", "busy"):
            client.register("m", worker)
        client.route("m", "running", pinned_worker="busy")
        placed = []
        for number in range(9):
            placed.append(client.route("m", f"r{number}").worker_id)
            outcome = "FAILED" if placed[-1] == "dead" else "CANCELLED"
            client.release("m", f"r{number}", outcome=f"RELEASE_OUTCOME_{outcome}")
        assert placed == ["dead"] * 3 + ["busy"] * 6
        assert client.workers()["dead"].avoidance == SUSPECT


def test_a_worker_that_stalls_is_suspect_keeps_its_bookings_and_returns_by_itself():
    engines = Engine(), Engine()
    with (
        running_daemon(*QUICK) as daemon,
        Client(daemon.grpc) as client,
        session(daemon, "a", engines[0]),
        session(daemon, "b", engines[1]) as b,
    ):
        ready(client, "a", "b")
        life = b.incarnation
        client.route("m", "kept", pinned_worker="b")
        engines[1].goes_on.clear()
        eventually(lambda: client.workers()["b"].avoidance == SUSPECT)
        assert 'eldr_worker_avoided{model="m",why="SUSPECT",worker="b"} 1.0' in scrape(daemon)
        assert {client.route("m", f"r{i}").worker_id for i in range(8)} == {"a"}
        only = client.route("m", "only", exclude_workers=["a"])
        assert only.worker_id == "b"
        assert client.workers()["b"].booked_sequences == 2
        engines[1].held = [("kept", 0), ("only", 0)]
        engines[1].goes_on.set()
        eventually(lambda: not client.workers()["b"].avoidance)
        assert client.workers()["b"].booked_sequences == 2
        assert client.workers()["b"].incarnation == b.incarnation == life
        assert client.route("m", "again").worker_id == "b"


def test_a_registration_may_be_repeated_while_reports_and_requests_flow():
    with running_daemon(*QUICK) as daemon, Client(daemon.grpc) as client:
        spec = {
            "model": "m",
            "worker_id": "w",
            "incarnation": 1 << 60,
            "capacity": fleet_pb2.WorkerCapacity(sequences=10_000),
        }
        register = fleet_pb2.RegisterWorkerRequest
        client.fleet.RegisterWorker(register(**spec))
        numbers = iter(range(1, 10**6))
        lock = threading.Lock()

        def again(i):
            labels = {"turn": str(i)}
            answer = client.fleet.RegisterWorker(register(**spec, labels=labels))
            assert answer.incarnation == 1 << 60

        def report(_):
            with lock:  # a worker sends one after the other
                request = fleet_pb2.ReportLoadRequest(
                    model="m", worker_id="w", incarnation=1 << 60, report_number=next(numbers)
                )
                assert client.fleet.ReportLoad(request).accepted

        report(0)
        others = []
        with ThreadPoolExecutor(8) as pool:
            for i in range(300):
                others += [pool.submit(again, i), pool.submit(report, i)]
                client.route("m", f"r{i}")
        for done in others:
            done.result()
        worker = client.workers()["w"]
        assert worker.booked_sequences == 300
        assert worker.state == fleet_pb2.WORKER_STATE_READY
        assert not worker.avoidance
        for i in range(300):
            assert client.release("m", f"r{i}") == "RELEASED"
        assert client.booked("m") == 0


def test_after_a_restart_without_state_what_a_worker_holds_is_load_at_once():
    engine = Engine()
    with running_daemon(*QUICK) as daemon:
        port = daemon.grpc
    with session(daemon, "w", engine, max_sequences=4):
        lives = []
        for _ in range(2):
            with running_daemon(*QUICK, "--listen", port) as daemon, Client(port) as client:
                ready(client, "w")
                worker = client.workers()["w"]
                assert worker.foreign_sequences == len(engine.held)
                lives.append(worker.incarnation)
                if engine.held:
                    with Refused("RESOURCE_EXHAUSTED"):
                        client.route("m", "more", num_sequences=1)
                else:
                    for i in range(4):
                        client.route("m", f"r{i}")
                    engine.held = [(f"r{i}", 0) for i in range(4)]
        assert lives[0] == lives[1]


def test_a_daemon_that_was_stopped_loses_no_worker_that_went_on():
    engine = Engine()
    with running_daemon(*QUICK) as daemon, Client(daemon.grpc) as client:
        with session(daemon, "w", engine, time_to_live=2.0):
            ready(client, "w")
            client.route("m", "r")
            life = client.workers()["w"].incarnation
            daemon.process.send_signal(signal.SIGSTOP)
            time.sleep(3.5)
            daemon.process.send_signal(signal.SIGCONT)
            time.sleep(1.0)
            worker = client.workers()["w"]
            assert (worker.incarnation, worker.booked_sequences) == (life, 1)
            assert not worker.avoidance
        eventually(lambda: "w" not in client.workers())


def test_a_worker_that_leaves_and_returns_again_and_again_is_held_down_and_its_counts_are_right():
    with (
        running_daemon(*QUICK, "--hold-down", "3") as daemon,
        Client(daemon.grpc) as client,
        session(daemon, "steady", Engine()),
    ):
        ready(client, "steady")
        for turn in range(4):
            with session(daemon, "flaps", Engine()):
                ready(client, "flaps")
                client.route("m", f"r{turn}", pinned_worker="flaps")
                assert client.workers()["flaps"].booked_sequences == 1
                if turn == 3:
                    held = client.workers()["flaps"]
                    assert held.avoidance == HELD_DOWN
                    assert 0 < held.hold_down.ToNanoseconds() / 1e9 <= 3
                    assert client.route("m", "new").worker_id == "steady"
                    eventually(lambda: not client.workers()["flaps"].avoidance, seconds=20)
            eventually(lambda: "flaps" not in client.workers())
        assert client.booked("m") == 1


@pytest.mark.parametrize("remove", [False, True])
def test_a_drain_has_a_deadline_and_tells_its_worker(remove):
    engine = Engine()
    with (
        running_daemon(*QUICK, "--log-format", "json") as daemon,
        Client(daemon.grpc) as client,
        session(daemon, "other", Engine()),
        session(daemon, "w", engine) as worker,
    ):
        ready(client, "w", "other")
        client.route("m", "r", pinned_worker="w")
        engine.held = [("r", 0)]
        changes = client.watch("m")
        request = fleet_pb2.DrainWorkerRequest(model="m", worker_id="w")
        request.deadline.CopyFrom(Duration(seconds=1))
        assert client.fleet.DrainWorker(request).booked_sequences == 1
        assert not worker.drained
        assert client.route("m", "new").worker_id == "other"
        assert client.workers()["w"].HasField("drain_remaining")
        eventually(lambda: worker.drained)
        assert client.workers()["w"].drained
        assert client.booked("m") == 1
        assert client.route("m", "r", attempt=1).worker_id == "other"
        assert client.release("m", "r", attempt=1) == "RELEASED"
        seen = next(c.worker for c in changes if c.worker.drained)
        assert seen.worker_id == "w"
        (ended,) = (line for line in daemon.logs if line["event"] == "booking ended")
        assert ended["reason"] == "the deadline of its worker's drain was there"
        if remove:
            request.remove = True
            worker._closing = True  # its engine is gone: no more reports, no goodbye
            worker._wake.set()
            worker._thread.join()
            client.fleet.DrainWorker(request)
            eventually(lambda: "w" not in client.workers())
