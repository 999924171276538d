"""Several daemons on one shared state: any of them serves any request."""

import re
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import grpc
import pytest
from daemon import Daemon, running_daemon
from eldr.v1 import fleet_pb2, partition_pb2, policy_pb2, router_pb2
from redis_server import needs_redis, running_redis
from wire import Client, counts, drawn, eventually

from eldr_service.server.replicas.telling import MOST_LEFT_OUT

pytestmark = needs_redis
PATIENT = "--state-timeout", "10"  # however busy the machine is


@contextmanager
def replicas(url: str, number: int = 3, *flags: str) -> Iterator[list[tuple[Daemon, Client]]]:
    with ExitStack() as stack:
        started = []
        for _ in range(number):
            daemon = stack.enter_context(
                running_daemon("--state", url, *PATIENT, "--log-format", "json", *flags)
            )
            started.append((daemon, stack.enter_context(Client(daemon.grpc))))
        yield started


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def fleet(redis):
    with replicas(redis.url) as started:
        yield [client for _, client in started]


def all_have(fleet, model: str, workers: int) -> None:
    def have() -> bool:
        try:
            return all(len(client.workers(model)) == workers for client in fleet)
        except grpc.RpcError:  # not known there yet
            return False

    eventually(have)


def test_a_booking_is_repeated_renewed_and_released_by_any_replica(fleet):
    a, b, c = fleet
    a.register("booking", "w0")
    all_have(fleet, "booking", 1)
    placement = b.route("booking", "r", num_sequences=3)
    again = c.route("booking", "r", num_sequences=3)  # at once: the state knows, if c does not yet
    assert (again.lease_id, again.repeated) == (placement.lease_id, True)
    lease = router_pb2.LeaseReference(request_id="r", lease_id=placement.lease_id)
    renewal = router_pb2.RenewLeasesRequest(model="booking", leases=[lease])
    assert not a.router.RenewLeases(renewal).unknown
    assert a.release("booking", "r") == "RELEASED"
    for client in fleet:
        assert client.release("booking", "r") == "ALREADY_RELEASED"
        with pytest.raises(grpc.RpcError, match=r"released|FAILED_PRECONDITION"):
            client.route("booking", "r", num_sequences=3)
    eventually(lambda: all(client.booked("booking") == 0 for client in fleet))


def test_one_request_asked_of_all_at_once_has_one_booking(fleet):
    fleet[0].register("once", "w0")
    fleet[0].register("once", "w1")
    all_have(fleet, "once", 2)
    with ThreadPoolExecutor(3) as pool:
        for number in range(50):
            answers = pool.map(Client.route, fleet, ["once"] * 3, [f"r{number}"] * 3)
            assert len({(a.worker_id, a.lease_id) for a in answers}) == 1
    eventually(lambda: all(client.booked("once") == 50 for client in fleet))


def test_a_worker_never_has_more_than_it_can_hold(fleet):
    room = fleet_pb2.WorkerCapacity(sequences=20)
    for worker in ("w0", "w1", "w2"):
        fleet[0].register("room", worker, capacity=room)
    all_have(fleet, "room", 3)

    def ask(number: int) -> bool:
        try:
            fleet[number % 3].route("room", f"r{number}")
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            return False
        return True

    with ThreadPoolExecutor(24) as pool:
        placed = sum(pool.map(ask, range(200)))
    assert placed == 60
    eventually(lambda: all(client.booked("room") == 60 for client in fleet))
    for client in fleet:
        assert {w.booked_sequences for w in client.workers("room").values()} == {20}


def test_a_signature_serves_the_route_at_another_replica(fleet):
    a, b, c = fleet
    a.register("signature", "w0")
    a.register("signature", "w1")
    version = a.fit("signature").version
    all_have(fleet, "signature", 2)
    eventually(lambda: active(b, "signature") == active(c, "signature") == version)
    for number in range(10):
        sent, asked = fleet[number % 3], fleet[(number + 1) % 3]
        sent.router.RegisterSignature(
            router_pb2.RegisterSignatureRequest(
                model="signature", request_id=f"r{number}", counts=counts(drawn(0)), last=True
            )
        )
        placement = asked.route("signature", f"r{number}")
        assert placement.partition_version == version, placement
        assert placement.coverage == 1.0


def test_chunks_at_different_replicas_make_one_signature_and_wake_who_waits(fleet):
    a, b, c = fleet
    a.register("chunks", "w0")
    a.fit("chunks")
    all_have(fleet, "chunks", 1)
    eventually(lambda: bool(active(c, "chunks")))
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(c.route, "chunks", "r", wait_for_signature={"seconds": 10})
        for sequence, client in enumerate((a, b)):
            client.router.RegisterSignature(
                router_pb2.RegisterSignatureRequest(
                    model="chunks",
                    request_id="r",
                    counts=counts(drawn(0, sequence)),
                    sequence=sequence,
                    last=sequence == 1,
                )
            )
        placement = waits.result(5)
    assert placement.coverage == 1.0
    assert placement.partition_version


def active(client, model: str) -> int:
    listed = client.partition.ListPartitions(partition_pb2.ListPartitionsRequest(model=model))
    return max((p.version for p in listed.partitions if p.active), default=0)


def policy_of(client, model: str) -> str:
    listed = client.policy.ListPolicies(policy_pb2.ListPoliciesRequest()).active
    return next((policy.name for policy in listed if policy.model == model), "")


def test_policy_and_partition_are_the_same_everywhere(fleet):
    a, b, c = fleet
    a.register("choice", "w0")
    all_have(fleet, "choice", 1)
    b.policy.SetPolicy(policy_pb2.SetPolicyRequest(model="choice", name="marginal-cost"))
    eventually(lambda: {policy_of(client, "choice") for client in fleet} == {"marginal-cost"})
    first, second = c.fit("choice").version, a.fit("choice").version
    assert (first, second) == (1, 2)
    eventually(lambda: {active(client, "choice") for client in fleet} == {2})
    b.partition.RollbackPartition(partition_pb2.RollbackPartitionRequest(model="choice"))
    eventually(lambda: {active(client, "choice") for client in fleet} == {1})


def test_workers_reports_drains_and_ends_reach_all(fleet):
    a, b, c = fleet
    life = a.register("workers", "w0", capacity=fleet_pb2.WorkerCapacity(sequences=9))
    a.register("workers", "w1")
    all_have(fleet, "workers", 2)
    b.fleet.ReportLoad(
        fleet_pb2.ReportLoadRequest(
            model="workers", worker_id="w0", incarnation=life, report_number=1, foreign_sequences=4
        )
    )
    eventually(lambda: all(x.workers("workers")["w0"].load == pytest.approx(4 / 9) for x in fleet))
    c.fleet.DrainWorker(fleet_pb2.DrainWorkerRequest(model="workers", worker_id="w0"))
    assert all(x.route("workers", f"r{n}").worker_id == "w1" for n, x in enumerate(fleet))
    b.fleet.RemoveWorker(fleet_pb2.RemoveWorkerRequest(model="workers", worker_id="w1"))
    eventually(lambda: all(set(x.workers("workers")) == {"w0"} for x in fleet))
    with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
        a.route("workers", "later")
    assert a.register("workers", "w1") > life
    all_have(fleet, "workers", 2)
    assert all(x.booked("workers") == 0 for x in fleet)


def test_a_new_replica_knows_what_the_others_do(fleet, redis):
    a, *_ = fleet
    a.register("late", "w0")
    a.fit("late")
    a.policy.SetPolicy(policy_pb2.SetPolicyRequest(model="late", name="marginal-cost"))
    placement = a.route("late", "r", counts=counts(drawn(1)))
    a.route("late", "done")
    a.release("late", "done")
    with replicas(redis.url, 1) as [(_, late)]:
        assert late.route("late", "r", counts=counts(drawn(1))).lease_id == placement.lease_id
        assert late.release("late", "done") == "ALREADY_RELEASED"
        assert policy_of(late, "late") == "marginal-cost"
        assert active(late, "late") == 1
        assert late.workers("late")["w0"].booked_sequences == 1
        assert late.release("late", "r") == "RELEASED"
    eventually(lambda: a.booked("late") == 0)
    assert a.release("late", "r") == "ALREADY_RELEASED"  # of a replica that is gone


def test_a_refused_attempt_ends_no_booking_at_a_new_replica(fleet, redis):
    fleet[0].register("attempts", "w0")
    all_have(fleet, "attempts", 1)
    kept = fleet[0].route("attempts", "r")
    assert fleet[0].release("attempts", "r", attempt=1) == "UNKNOWN"  # its Route is still to come
    with replicas(redis.url, 1) as ((_, late),):
        with pytest.raises(grpc.RpcError, match="FAILED_PRECONDITION"):
            late.route("attempts", "r", attempt=1)
        again = late.route("attempts", "r")
        assert (again.lease_id, again.repeated) == (kept.lease_id, True)
    assert fleet[0].release("attempts", "r") == "RELEASED"


@pytest.fixture
def own_redis(tmp_path):
    with running_redis(tmp_path) as server:
        yield server


def test_what_a_policy_has_learned_outlives_all_replicas(own_redis):
    flags = "--policy", "marginal-cost"
    with replicas(own_redis.url, 1, *flags) as [(daemon, client)]:
        client.register("learned", "w0")
        client.register("learned", "w1")
        for number in range(8):
            client.route("learned", f"r{number}", counts=counts(drawn(number % 2, number)))
            request = router_pb2.ReleaseRequest(
                model="learned", request_id=f"r{number}", decode_counts=counts(drawn(3, number))
            )
            client.router.Release(request)
        eventually(lambda: window(daemon) == 8)
        learned = predicted(client)
    with replicas(own_redis.url, 1, *flags) as [(daemon, client)]:
        assert window(daemon) == 8
        assert predicted(client) == learned
    with replicas(f"{own_redis.url}?name=another", 1, *flags) as [(_, client)]:
        client.register("learned", "w0")
        assert predicted(client) != learned


def predicted(client) -> float:
    """Active experts of an idle worker that would get a certain request."""
    placement = client.route("learned", "asked", counts=counts(drawn(0)), dry_run=True)
    return placement.scores[0].predicted_active_experts


def window(daemon) -> int:
    page = urllib.request.urlopen(f"http://{daemon.http}/metrics", timeout=10).read().decode()
    [found] = re.findall(r'^eldr_window_signatures\{model="learned"\} (\S+)$', page, re.M) or ["0"]
    return int(float(found))


def test_answers_are_right_before_the_others_have_heard(fleet):
    for number in range(60):
        a, b, c = fleet[number % 3 :] + fleet[: number % 3]
        model, name = f"at-once-{number % 4}", f"r{number}"
        if number < 4:
            a.register(model, "w0")  # and is asked for elsewhere in the same millisecond
        booked = b.route(model, name)
        assert c.release(model, name, lease_id="another") == "UNKNOWN"
        repeat = a.route(model, name)
        assert (repeat.repeated, repeat.lease_id) == (True, booked.lease_id)
        lease = router_pb2.LeaseReference(request_id=name, lease_id=booked.lease_id)
        renewal = router_pb2.RenewLeasesRequest(model=model, leases=[lease])
        assert not c.router.RenewLeases(renewal).unknown
        assert c.release(model, name, lease_id=booked.lease_id) == "RELEASED"
        assert list(a.router.RenewLeases(renewal).unknown) == [lease]
        assert b.release(model, name) == "ALREADY_RELEASED"
        with pytest.raises(grpc.RpcError, match="FAILED_PRECONDITION"):
            a.route(model, name)


def test_a_booking_that_ended_elsewhere_is_not_repeated(fleet):
    for number in range(30):
        a, b, c = fleet[number % 3 :] + fleet[: number % 3]
        a.register("ended", "w0")
        a.route("ended", f"r{number}")
        assert b.route("ended", f"r{number}").repeated
        assert a.release("ended", f"r{number}") == "RELEASED"
        with pytest.raises(grpc.RpcError, match="FAILED_PRECONDITION"):
            b.route("ended", f"r{number}")
        assert c.release("ended", f"r{number}") == "ALREADY_RELEASED"


def test_absences_in_a_row_are_counted_over_all_replicas(fleet):
    life = fleet[0].register("absent", "w0")
    all_have(fleet, "absent", 1)
    fleet[0].route("absent", "gone")
    fleet[0].route("absent", "flaps")
    eventually(lambda: all(client.booked("absent") == 2 for client in fleet))

    def hear(number: int, *held: str) -> None:
        report = fleet_pb2.ReportLoadRequest(
            model="absent", worker_id="w0", incarnation=life, report_number=number,
            held=[{"request_id": name} for name in held], foreign_sequences=number,
        )  # fmt: skip
        assert fleet[number % 3].fleet.ReportLoad(report).accepted
        load = (number + 2) / 256
        eventually(lambda: all(x.workers("absent")["w0"].load >= load for x in fleet))

    hear(0, "gone", "flaps")
    hear(1, "gone")
    hear(2, "gone", "flaps")
    hear(4, "gone")  # at the replica of report 1: with a report between, the first in a row
    assert all(client.booked("absent") == 2 for client in fleet)
    hear(5, "flaps")
    report = fleet_pb2.ReportLoadRequest(
        model="absent", worker_id="w0", incarnation=life, report_number=6,
        held=[{"request_id": "flaps"}],
    )  # fmt: skip
    assert fleet[0].fleet.ReportLoad(report).accepted
    eventually(lambda: all(client.booked("absent") == 1 for client in fleet))


def test_all_that_a_report_leaves_out_reaches_all_replicas(fleet):
    a, b, c = fleet
    life = a.register("vanished", "w0", capacity=fleet_pb2.WorkerCapacity(sequences=1_000))
    all_have(fleet, "vanished", 1)
    names = [f"r{number}" for number in range(MOST_LEFT_OUT + 100)]
    for name in names:
        a.route("vanished", name)

    def hear(client, number: int, held: list[str]) -> None:
        report = fleet_pb2.ReportLoadRequest(
            model="vanished", worker_id="w0", incarnation=life, report_number=number,
            held=[{"request_id": name} for name in held],
        )  # fmt: skip
        assert client.fleet.ReportLoad(report).accepted
        client.route("vanished", f"after-{number}")  # the others are told of it after the report

    def all_booked(number: int) -> bool:
        return all(client.booked("vanished") == number for client in fleet)

    hear(a, 1, names)
    eventually(lambda: all_booked(len(names) + 1))
    hear(b, 2, [])
    eventually(lambda: all_booked(len(names) + 2))
    hear(c, 3, [])
    eventually(lambda: all_booked(3))


def test_a_chunk_is_answered_by_what_all_replicas_were_sent(fleet):
    a, b, c = fleet

    def send(client, epoch: int, sequence: int):
        return client.router.RegisterSignature(
            router_pb2.RegisterSignatureRequest(
                model="answer",
                request_id="r",
                epoch=epoch,
                sequence=sequence,
                counts=counts(drawn(0, sequence)),
                last=sequence == 1,
            )
        )

    assert not send(a, 1, 1).complete
    whole = send(b, 1, 0)
    assert (whole.complete, whole.tokens_held) == (True, 60)
    with pytest.raises(grpc.RpcError, match="FAILED_PRECONDITION"):
        send(c, 0, 0)


def test_an_early_release_lets_the_signature_go_everywhere(fleet):
    a, b, c = fleet
    a.register("early", "w0")
    a.policy.SetPolicy(policy_pb2.SetPolicyRequest(model="early", name="marginal-cost"))
    all_have(fleet, "early", 1)
    a.router.RegisterSignature(
        router_pb2.RegisterSignatureRequest(
            model="early", request_id="r", counts=counts(drawn(0)), last=True
        )
    )
    assert b.release("early", "r") == "UNKNOWN"
    assert (
        c.route("early", "r", attempt=1).reason
        == router_pb2.PLACEMENT_REASON_LEAST_LOADED_NO_SIGNATURE
    )


def test_a_repeated_release_lets_a_late_signature_go_everywhere(fleet):
    a, b, _ = fleet
    a.register("repeated", "w0")
    all_have(fleet, "repeated", 1)
    a.route("repeated", "r")
    assert b.release("repeated", "r") == "RELEASED"

    def is_accepted(epoch: int) -> bool:
        request = router_pb2.RegisterSignatureRequest(
            model="repeated", request_id="r", epoch=epoch, counts=counts(drawn(0)), last=True
        )
        try:
            return a.router.RegisterSignature(request).complete
        except grpc.RpcError:  # below the epoch that is held
            return False

    assert is_accepted(1)
    assert not is_accepted(0)
    assert b.release("repeated", "r") == "ALREADY_RELEASED"
    eventually(lambda: is_accepted(0))


def test_lives_that_begin_at_two_replicas_at_once_are_one_at_last(fleet):
    a, b, _ = fleet
    a.register("lives", "w0")
    all_have(fleet, "lives", 1)

    def begin(client, name: str) -> None:
        client.register("lives", "w0")
        for number in range(5):
            client.route("lives", f"{name}-{number}")

    with ThreadPoolExecutor(2) as pool:
        for turn in range(20):
            list(pool.map(begin, (a, b), (f"a{turn}", f"b{turn}")))

    def agree() -> bool:
        lives = [client.workers("lives")["w0"] for client in fleet]
        return len({(life.incarnation, life.booked_sequences) for life in lives}) == 1

    eventually(agree)


def test_of_releases_at_all_replicas_at_once_one_ends_the_booking(fleet):
    fleet[0].register("releases", "w0")
    all_have(fleet, "releases", 1)
    with ThreadPoolExecutor(3) as pool:
        for number in range(100):
            name = f"r{number}"
            booked = fleet[number % 3].route("releases", name)
            assert all(
                client.route("releases", name).lease_id == booked.lease_id for client in fleet
            )
            said = sorted(pool.map(Client.release, fleet, ["releases"] * 3, [name] * 3))
            assert said == ["ALREADY_RELEASED", "ALREADY_RELEASED", "RELEASED"]


def test_replicas_that_do_not_see_each_other_draw_otherwise(fleet):
    client = fleet[0]
    for number in range(64):
        client.register("drawn", f"w{number}")
    client.policy.SetPolicy(policy_pb2.SetPolicyRequest(model="drawn", name="random"))
    all_have(fleet, "drawn", 64)
    eventually(lambda: all(policy_of(client, "drawn") == "random" for client in fleet))
    drawn_by = [client.route("drawn", "asked", dry_run=True).worker_id for client in fleet]
    assert len(set(drawn_by)) > 1  # by chance the same once in 4,096 runs
