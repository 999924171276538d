"""Workers are watched, leased and heard, over the real socket."""

from eldr.v1 import fleet_pb2, policy_pb2, router_pb2
from google.protobuf.duration_pb2 import Duration
from wire import Refused, eventually

REASON = router_pb2.PlacementReason.Name


def test_watchers_see_the_beginning_and_every_change(client, model):
    client.register(model, "a")
    client.register(model, "b", state=fleet_pb2.WORKER_STATE_JOINING)
    changes = client.watch(model)

    def see():
        change = next(changes)
        state = fleet_pb2.WorkerState.Name(change.worker.state).removeprefix("WORKER_STATE_")
        return change.worker.worker_id, state, change.synchronized

    assert [see(), see()] == [("a", "READY", False), ("b", "JOINING", True)]
    report = fleet_pb2.ReportLoadRequest(
        model=model, worker_id="b", incarnation=client.workers(model)["b"].incarnation
    )
    client.fleet.ReportLoad(report)
    assert see() == ("b", "READY", True)
    client.register(f"{model}-other", "not-mine")
    client.register(model, "c")
    assert see() == ("c", "READY", True)
    client.fleet.DrainWorker(fleet_pb2.DrainWorkerRequest(model=model, worker_id="a"))
    assert see() == ("a", "DRAINING", True)
    client.fleet.RemoveWorker(fleet_pb2.RemoveWorkerRequest(model=model, worker_id="a"))
    assert see() == ("a", "GONE", True)
    changes.cancel()
    nobody = next(client.watch(f"{model}-empty"))
    assert nobody.synchronized
    assert not nobody.HasField("worker")


def test_leases_are_renewed_or_named_as_unknown(client, model):
    client.register(model)
    lease = client.route(model, "r").lease_id
    reference = router_pb2.LeaseReference
    answer = client.router.RenewLeases(
        router_pb2.RenewLeasesRequest(
            model=model,
            leases=[
                reference(request_id="r", lease_id=lease),
                reference(request_id="r"),
                reference(request_id="r", lease_id="another"),
                reference(request_id="r", attempt=1),
                reference(request_id="nobody"),
            ],
        )
    )
    unknown = [(u.request_id, u.attempt, u.lease_id) for u in answer.unknown]
    assert unknown == [("r", 0, "another"), ("r", 1, ""), ("nobody", 0, "")]
    with Refused("NOT_FOUND"):
        client.router.RenewLeases(router_pb2.RenewLeasesRequest(model=f"{model}-unknown"))


def test_a_lease_that_nobody_renews_runs_out(client, model):
    client.register(model)
    client.route(model, "r", lease_ttl=Duration(seconds=1))
    client.route(model, "s")
    eventually(lambda: client.booked(model) == 1)
    assert client.release(model, "s") == "RELEASED"
    assert client.release(model, "r") == "ALREADY_RELEASED"


def held(*names):
    return [fleet_pb2.HeldRequest(request_id=name) for name in names]


def test_reports(client, model):
    life = client.register(model, capacity=fleet_pb2.WorkerCapacity(sequences=10))
    client.route(model, "runs")
    client.route(model, "transfers")

    def report(number, incarnation=life, **fields):
        return client.fleet.ReportLoad(
            fleet_pb2.ReportLoadRequest(
                model=model,
                worker_id="w0",
                incarnation=incarnation,
                report_number=number,
                **fields,
            )
        )

    answer = report(5, held=held("runs", "stranger"), foreign_sequences=3, batch_size=2.5)
    assert answer.accepted
    assert answer.report_interval.ToSeconds() == 1
    assert [u.request_id for u in answer.unknown] == ["stranger"]
    worker = client.workers(model)["w0"]
    assert (worker.booked_sequences, worker.foreign_sequences, worker.load) == (2, 3, 0.5)
    assert worker.batch_size == 2.5
    assert worker.HasField("report_time")
    assert not worker.stale
    assert not report(5, held=[]).accepted
    assert not report(4).accepted
    assert not report(9, incarnation=life - 1).accepted
    assert report(6).accepted
    assert client.booked(model) == 2  # one absence proves nothing
    assert report(7).accepted
    assert client.booked(model) == 1  # and "transfers" was never seen: nothing ends it
    assert client.workers(model)["w0"].load == 0.1
    assert client.register(model) > life
    assert not report(99).accepted
    assert client.booked(model) == 0
    with Refused("NOT_FOUND"):
        client.fleet.ReportLoad(fleet_pb2.ReportLoadRequest(model=model, worker_id="nobody"))


def test_the_largest_numbers_a_worker_can_report(client, model):
    most = 2**32 - 1
    capacity = fleet_pb2.WorkerCapacity(sequences=most, kv_tokens=2**48 - 1)
    small = fleet_pb2.WorkerCapacity(sequences=1, kv_tokens=1)
    life = client.register(model, "large", capacity=capacity)
    client.register(model, "small", capacity=small)
    client.fleet.ReportLoad(
        fleet_pb2.ReportLoadRequest(
            model=model,
            worker_id="large",
            incarnation=life,
            report_number=2**63 - 1,
            foreign_sequences=most - 1,
            kv_tokens_used=2**48 - 1,
        )
    )
    for load in ("sequences", "tokens", "kv"):
        client.policy.SetPolicy(
            policy_pb2.SetPolicyRequest(
                model=model, name="join-shortest-queue", parameters={"load": load}
            )
        )
        fields = {"prompt_tokens": most, "expected_output_tokens": most}
        placement = client.route(model, load, pinned_worker="large", explain=True, **fields)
        assert all(score.load >= 0 for score in placement.scores)
        client.release(model, load)
    assert client.workers(model)["large"].load == (most - 1) / most
