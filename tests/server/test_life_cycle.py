"""Starts, restarts, drains and ends, as an operator sees them."""

import resource
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from contextlib import contextmanager

import grpc
import pytest
from children import limits_files
from daemon import command, running_daemon
from eldr.v1 import fleet_pb2, partition_pb2, policy_pb2
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2
from wire import Client, Refused, counts, drawn, eventually

STATE = fleet_pb2.WorkerState.Name
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@contextmanager
def serving(*flags):
    with running_daemon(*flags) as daemon, Client(daemon.grpc) as client:
        yield daemon, client


def healthz(daemon) -> int:
    try:
        return urllib.request.urlopen(f"http://{daemon.http}/healthz", timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


def state_of(client):
    """All that is to survive: workers, partitions, policies, and what a signature scores."""
    workers = client.fleet.ListWorkers(fleet_pb2.ListWorkersRequest()).workers
    partitions = client.partition.ListPartitions(partition_pb2.ListPartitionsRequest()).partitions
    for info in partitions:
        for binding in info.bindings:
            binding.placements = 0
    active = client.policy.ListPolicies(policy_pb2.ListPoliciesRequest()).active
    scores = client.route("m", "x", counts=counts(drawn(1)), dry_run=True).scores
    for score in scores:
        score.ClearField("report_age")
    return list(workers), list(partitions), list(active), list(scores)


def test_a_restart_and_a_crash_lose_nothing(tmp_path):
    flags = ("--state", str(tmp_path))
    with serving(*flags) as (daemon, client):
        capacity = fleet_pb2.WorkerCapacity(sequences=7, kv_tokens=2**40)
        client.register("m", "a", labels={"zone": "ä"}, group="g", dp_rank=3, capacity=capacity)
        client.register("m", "b", state=fleet_pb2.WORKER_STATE_JOINING)
        client.register("m", "c")
        client.register("m", "removed")
        client.fleet.DrainWorker(fleet_pb2.DrainWorkerRequest(model="m", worker_id="c"))
        client.fleet.RemoveWorker(fleet_pb2.RemoveWorkerRequest(model="m", worker_id="removed"))
        client.register("other", "p", role=fleet_pb2.WORKER_ROLE_PREFILL)
        for kinds in (2, 3, 4):
            client.fit("m", kinds=kinds)
        client.partition.RollbackPartition(partition_pb2.RollbackPartitionRequest(model="m"))
        client.policy.SetPolicy(
            policy_pb2.SetPolicyRequest(model="m", name="locality-band", parameters={"tau": "0.25"})
        )
        before = state_of(client)
        assert [worker.worker_id for worker in before[0]] == ["a", "b", "c", "p"]
    with serving(*flags) as (daemon, client):
        assert state_of(client) == before
        life = before[0][0].incarnation
        report = fleet_pb2.ReportLoadRequest(model="m", worker_id="a", incarnation=life)
        assert client.fleet.ReportLoad(report).accepted  # its life goes on
        assert client.register("m", "d") > max(worker.incarnation for worker in before[0])
        crashed = state_of(client)
        daemon.process.kill()
        daemon.process.wait()
    with serving(*flags) as (daemon, client):
        after = state_of(client)
        assert [w.worker_id for w in after[0]] == ["a", "b", "c", "d", "p"]
        assert after[1:] == crashed[1:]
        rollback = partition_pb2.RollbackPartitionRequest(model="m")
        assert client.partition.RollbackPartition(rollback).partition.version == 1
        with Refused("FAILED_PRECONDITION"):
            client.partition.RollbackPartition(rollback)
        exported = client.partition.ExportPartition(
            partition_pb2.ExportPartitionRequest(model="m", version=2)
        )
        again = partition_pb2.ImportPartitionRequest(data=exported.data)
        assert client.partition.ImportPartition(again).partition.version == 4


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A daemon whose state lies in a directory."""
    folder = tmp_path_factory.mktemp("state")
    with running_daemon("--state", str(folder)) as daemon:
        yield daemon, folder


@pytest.mark.parametrize("taken", ["--state", "--listen", "--http"])
def test_what_another_daemon_uses_is_named(kept, taken):
    daemon, folder = kept
    flags = {"--listen": "127.0.0.1:0", "--http": "127.0.0.1:0", "--state": ":memory:"}
    flags[taken] = {"--state": str(folder), "--listen": daemon.grpc, "--http": daemon.http}[taken]
    arguments = [part for flag in flags.items() for part in flag]
    ended = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    expected = f"another eldr-server uses {folder}" if taken == "--state" else f"{taken} "
    assert last.startswith(f"eldr-server: {expected}")
    with Client(daemon.grpc) as client:
        assert client.health.Check(health_pb2.HealthCheckRequest()).status == SERVING


@limits_files
def test_a_full_disk_is_said_and_survived(kept):
    daemon, _ = kept
    random = policy_pb2.SetPolicyRequest(model="m", name="random")
    with Client(daemon.grpc) as client:
        client.register("m", "a")
        before = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (0, -1))
        client.register("m", "b")  # serves, though a restart will not know it
        client.route("m", "r")
        with Refused("UNAVAILABLE") as refused:
            client.policy.SetPolicy(random)
        assert "could not be stored" in refused.status.message
        with Refused("RESOURCE_EXHAUSTED"):
            client.fit("m")  # in a process that cannot be started
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, before)
        client.policy.SetPolicy(random)
        assert client.fit("m").version == 1
        assert client.release("m", "r") == "RELEASED"


def ends(daemon, seconds: float) -> int:
    return daemon.process.wait(seconds)


def test_drains_until_the_last_booking_is_released():
    with serving("--drain-seconds", "600") as (daemon, client):
        client.register("m")
        client.route("m", "long")
        health = client.health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(health).status == SERVING
        assert healthz(daemon) == 200
        daemon.process.send_signal(signal.SIGTERM)
        assert next(health).status == NOT_SERVING
        assert healthz(daemon) == 503
        for service in ("", "eldr.v1.RouterService", "eldr.v1.PolicyService"):
            check = health_pb2.HealthCheckRequest(service=service)
            assert client.health.Check(check).status == NOT_SERVING
        assert client.route("m", "late").worker_id == "w0"
        assert client.release("m", "late") == "RELEASED"
        assert daemon.process.poll() is None
        assert client.release("m", "long") == "RELEASED"
        assert ends(daemon, 20) == 0


def test_a_second_signal_ends_the_drain():
    with serving("--drain-seconds", "600") as (daemon, client):
        client.register("m")
        client.route("m", "long")
        watching = client.watch("m")
        next(watching)
        daemon.process.send_signal(signal.SIGTERM)
        eventually(lambda: healthz(daemon) == 503)
        daemon.process.send_signal(signal.SIGINT)
        assert ends(daemon, 20) == 0
        with pytest.raises(grpc.RpcError) as ended:
            next(watching)
        assert ended.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_the_drain_has_an_end_and_a_fit_does_not_prolong_it():
    with serving("--drain-seconds", "0.2") as (daemon, client):
        client.register("m")
        client.route("m", "long")
        layers = 32
        signatures = [
            counts(drawn(kind, seed, layers=layers, experts=64), num_layers=layers)
            for kind in range(4)
            for seed in range(500)
        ]
        client.register("large", geometry=None)
        fit = partition_pb2.FitPartitionRequest(
            model="large", counts=signatures, num_slots=64, max_iter=1_000, n_init=100
        )
        fitting = client.partition.FitPartition.future(fit)
        client.route("m", "meanwhile")
        daemon.process.send_signal(signal.SIGTERM)
        assert ends(daemon, 20) == 0
        assert fitting.code() is not grpc.StatusCode.OK


def test_silent_workers_are_gone_with_their_bookings(client, model):
    client.register(model, "mortal", time_to_live=Duration(seconds=1))
    client.route(model, "r")
    changes = client.watch(model)
    assert next(changes).worker.worker_id == "mortal"
    assert STATE(next(changes).worker.state) == "WORKER_STATE_GONE"
    assert client.workers(model) == {}
    assert client.release(model, "r") == "ALREADY_RELEASED"
    client.register(model, "next")
    assert client.route(model, "s").worker_id == "next"


def test_a_repeat_is_placed_afresh_when_its_worker_is_gone(client, model):
    client.register(model, "a")
    client.register(model, "b")
    first = client.route(model, "r")
    client.fleet.RemoveWorker(fleet_pb2.RemoveWorkerRequest(model=model, worker_id="a"))
    again = client.route(model, "r")
    assert (first.worker_id, again.worker_id, again.repeated) == ("a", "b", False)


def test_joining_workers_get_nothing(client, model):
    life = client.register(model, state=fleet_pb2.WORKER_STATE_JOINING)
    with Refused("UNAVAILABLE"):
        client.route(model, "r")
    report = fleet_pb2.ReportLoadRequest(model=model, worker_id="w0", incarnation=life)
    assert client.fleet.ReportLoad(report).accepted
    assert client.route(model, "r").worker_id == "w0"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as listening:
            listening.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback to listen on")
def test_the_port_file_has_addresses_that_can_be_dialled():
    with serving("--listen", "[::1]:0", "--http", "[::1]:0") as (daemon, client):
        assert client.health.Check(health_pb2.HealthCheckRequest()).status == SERVING
        assert healthz(daemon) == 200


def test_the_log_says_what_serves(tmp_path):
    flags = "--state", str(tmp_path), "--policy", "locality-band:tau=0.2", "--log-format", "json"
    with running_daemon(*flags) as daemon:
        eventually(lambda: any(line["event"] == "serving" for line in daemon.logs))
        (line,) = [line for line in daemon.logs if line["event"] == "serving"]
    assert (line["grpc"], line["http"]) == (daemon.grpc, daemon.http)
    assert (line["policy"], line["state"]) == ("locality-band:tau=0.2", str(tmp_path))
    assert line["version"]
