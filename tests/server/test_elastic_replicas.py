"""Registrations of the same life, drains and suspects are the same to every replica."""

import pytest
from daemon import running_daemon
from eldr.v1 import fleet_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from redis_server import needs_redis, running_redis
from wire import Client, eventually

pytestmark = needs_redis
LIFE = 1 << 60


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with running_redis(tmp_path_factory.mktemp("redis")) as redis:
        flags = ("--state", redis.url, "--report-interval", "0.2", "--suspect-after", "1")
        with (
            running_daemon(*flags) as one,
            running_daemon(*flags) as two,
            Client(one.grpc) as a,
            Client(two.grpc) as b,
        ):
            yield a, b


def know(client, model, *workers):
    def knows():
        known = {w.worker_id for w in client.fleet.ListWorkers(pb.ListWorkersRequest()).workers
                 if w.model == model}  # fmt: skip
        return known == set(workers)

    eventually(knows)


def report(client, model, worker_id, number):
    request = pb.ReportLoadRequest(
        model=model, worker_id=worker_id, incarnation=LIFE, report_number=number
    )
    return client.fleet.ReportLoad(request)


def test_a_life_goes_on_at_another_replica_with_what_it_says_of_itself_now(pair):
    a, b = pair
    a.register("life", "w", incarnation=LIFE)
    know(b, "life", "w")
    report(a, "life", "w", 1)
    eventually(lambda: b.workers("life")["w"].state == pb.WORKER_STATE_READY)
    b.route("life", "r")
    assert b.register("life", "w", incarnation=LIFE, labels={"zone": "x"}) == LIFE
    eventually(lambda: dict(a.workers("life")["w"].labels) == {"zone": "x"})
    for client in pair:
        eventually(lambda c=client: c.booked("life") == 1)


def test_a_drain_ends_at_its_deadline_for_all(pair):
    a, b = pair
    for worker in ("w", "other"):
        a.register("drain", worker)
    know(b, "drain", "w", "other")
    b.route("drain", "r", pinned_worker="w")
    request = pb.DrainWorkerRequest(model="drain", worker_id="w", remove=True)
    request.deadline.CopyFrom(Duration(seconds=2))
    assert a.fleet.DrainWorker(request).booked_sequences == 1
    eventually(lambda: b.workers("drain")["w"].HasField("drain_remaining"))
    for client in pair:
        know(client, "drain", "other")
        eventually(lambda c=client: c.booked("drain") == 0)
    assert b.route("drain", "r", attempt=1).worker_id == "other"


def test_a_silent_worker_is_suspect_to_all_and_back_to_all(pair):
    a, b = pair
    a.register("silence", "w", incarnation=LIFE, time_to_live=Duration(seconds=60))
    report(a, "silence", "w", 1)
    know(b, "silence", "w")
    for client in pair:
        eventually(lambda c=client: c.workers("silence")["w"].avoidance != 0)
    report(b, "silence", "w", 2)
    for client in pair:
        eventually(lambda c=client: c.workers("silence")["w"].avoidance == 0)
