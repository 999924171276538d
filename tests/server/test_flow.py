"""The whole conversation, as a scheduler, workers and an operator have it with the daemon."""

import queue

import grpc
import numpy as np
import pytest
from eldr.v1 import fleet_pb2, partition_pb2, policy_pb2, router_pb2
from google.protobuf.duration_pb2 import Duration
from wire import GEOMETRY, LAYERS, Refused, counts, drawn, eventually, read_status

REASON = router_pb2.PlacementReason.Name


def chunks_of(whole, number):
    """Counts in `number` chunks of equal tokens, that add up to `whole`."""
    parts = [np.zeros_like(whole) for _ in range(number)]
    for layer, row in enumerate(whole):
        picks = np.repeat(np.arange(len(row)), row)
        for part, some in zip(parts, np.split(picks, number), strict=True):
            part[layer] = np.bincount(some, minlength=len(row))
    return parts


def register(client, model, request_id, sequence, array, **fields):
    request = router_pb2.RegisterSignatureRequest(
        model=model, request_id=request_id, sequence=sequence, counts=counts(array), **fields
    )
    return client.router.RegisterSignature(request)


def test_from_registration_to_release(client, fleet):
    whole = drawn(kind=1, seed=9)
    first, second, third = chunks_of(whole, 3)
    assert register(client, fleet, "r", 0, first).tokens_held == 10
    assert not register(client, fleet, "r", 2, third, last=True, prompt_tokens=30).complete
    held = register(client, fleet, "r", 1, second)
    assert (held.tokens_held, held.complete) == (30, True)

    placement = client.route(fleet, "r", explain=True)
    assert REASON(placement.reason) == "PLACEMENT_REASON_LOCALITY_BAND"
    assert placement.url == f"http://{placement.worker_id}"
    assert (placement.policy, placement.partition_version, placement.coverage) == (
        "locality-band",
        1,
        1.0,
    )
    assert [score.worker_id for score in placement.scores] == ["w0", "w1", "w2", "w3"]
    assert all(score.eligible and score.load == 0 for score in placement.scores)
    best = max(placement.scores, key=lambda score: score.similarity)
    band = [score for score in placement.scores if score.in_band]
    assert best in band
    assert len(band) >= 2
    chosen = next(s for s in placement.scores if s.worker_id == placement.worker_id)
    assert chosen.in_band
    assert placement.similarity == chosen.similarity
    alternates = [target.worker_id for target in placement.alternates]
    assert {placement.worker_id, *alternates} == {"w0", "w1", "w2", "w3"}
    assert set(alternates[: len(band) - 1]) == {s.worker_id for s in band} - {placement.worker_id}
    assert 899 < placement.lease_remaining.ToTimedelta().total_seconds() <= 900

    worker = client.workers(fleet)[placement.worker_id]
    assert (worker.booked_sequences, worker.load) == (1, 1.0)
    assert client.booked(fleet) == 1
    again = client.route(fleet, "r")
    assert (again.worker_id, again.lease_id, again.repeated) == (
        placement.worker_id,
        placement.lease_id,
        True,
    )
    assert client.release(fleet, "r", lease_id="another") == "UNKNOWN"
    assert client.booked(fleet) == 1
    assert client.release(fleet, "r", lease_id=placement.lease_id) == "RELEASED"
    assert client.release(fleet, "r") == "ALREADY_RELEASED"
    assert client.booked(fleet) == 0


def test_a_dry_run_books_nothing_and_a_pin_is_obeyed(client, fleet):
    scored = client.route(fleet, "r", counts=counts(drawn(0)), dry_run=True)
    assert not scored.lease_id
    assert len(scored.scores) == 4
    assert client.booked(fleet) == 0
    pinned = client.route(fleet, "r", counts=counts(drawn(0)), pinned_worker="w3")
    assert (pinned.worker_id, REASON(pinned.reason)) == ("w3", "PLACEMENT_REASON_PINNED")


def test_what_the_filters_leave(client, model):
    client.register(model, "a", labels={"zone": "x"}, group="g")
    client.register(model, "b", labels={"zone": "y"}, group="h")
    client.register(model, "p", role=fleet_pb2.WORKER_ROLE_PREFILL, group="h")
    assert client.route(model, "1", worker_selector={"zone": "y"}).worker_id == "b"
    assert client.route(model, "2", candidate_workers=["b"]).worker_id == "b"
    assert client.route(model, "3", exclude_workers=["b"]).worker_id == "a"
    placement = client.route(model, "4", prefill_worker="p", explain=True)
    assert placement.worker_id == "b"
    assert placement.scores[0].ineligible_reason == "it is not in the prefill worker's group h"
    with Refused("UNAVAILABLE"):
        client.route(model, "5", worker_selector={"zone": "z"})
    assert client.booked(model) == 4


def test_a_higher_attempt_ends_the_lower_and_tries_its_worker_last(client, model):
    client.register(model, "a")
    client.register(model, "b")
    assert client.route(model, "r", attempt=1).worker_id == "a"
    second = client.route(model, "r", attempt=2)
    assert [second.worker_id, *(t.worker_id for t in second.alternates)] == ["b", "a"]
    with Refused("FAILED_PRECONDITION"):
        client.route(model, "r", attempt=1)
    assert client.booked(model) == 1


def test_another_payload_and_an_early_release_are_refused(client, model):
    client.register(model)
    client.route(model, "r", prompt_tokens=1)
    with Refused("FAILED_PRECONDITION") as refused:
        client.route(model, "r", prompt_tokens=2)
    assert "another payload" in refused.status.message
    assert client.release(model, "late") == "UNKNOWN"
    with Refused("FAILED_PRECONDITION"):
        client.route(model, "late")
    assert client.booked(model) == 1


@pytest.mark.parametrize(
    ("fields", "partition", "reason"),
    [
        ({}, True, "LEAST_LOADED_NO_SIGNATURE"),
        ({"counts": counts(drawn(0), unknown_tokens=31)}, True, "LEAST_LOADED_LOW_COVERAGE"),
        ({"counts": counts(drawn(0))}, False, "LEAST_LOADED_NO_PARTITION"),
        ({"counts": counts(drawn(0))}, True, "LOCALITY_BAND"),
    ],
)
def test_lesser_answers_say_why(client, model, fields, partition, reason):
    client.register(model, "a")
    client.register(model, "b")
    if partition:
        client.fit(model)
    placement = client.route(model, "r", **fields)
    assert REASON(placement.reason) == f"PLACEMENT_REASON_{reason}"
    assert placement.partition_version == (reason == "LOCALITY_BAND")


def test_full_workers_and_no_workers(client, model):
    client.register(model, capacity=fleet_pb2.WorkerCapacity(sequences=2))
    client.route(model, "r", num_sequences=2)
    with Refused("RESOURCE_EXHAUSTED") as refused:
        client.route(model, "s")
    assert refused.status.retry_seconds > 0
    assert refused.status.reason == "RESOURCE_EXHAUSTED"
    drain = client.fleet.DrainWorker(fleet_pb2.DrainWorkerRequest(model=model, worker_id="w0"))
    assert drain.booked_sequences == 2
    with Refused("UNAVAILABLE"):
        client.route(model, "t")
    with Refused("UNAVAILABLE"):
        client.route(f"{model}-unknown", "t")


class Stream:
    """A bidirectional stream: `send` what you like, `receive` what comes."""

    def __init__(self, method) -> None:
        self._requests = queue.SimpleQueue()
        self._answers = method(iter(self._requests.get, None), timeout=30)

    def send(self, *requests) -> None:
        for request in requests:
            self._requests.put(request)

    def receive(self):
        return next(self._answers)

    def end(self) -> list:
        """Ends the client's side; returns what the daemon still had to say."""
        self._requests.put(None)
        rest = list(self._answers)
        assert self._answers.code() is grpc.StatusCode.OK
        return rest


def chunk(model, request_id, sequence, array, **fields):
    return router_pb2.StreamSignaturesRequest(
        model=model, request_id=request_id, sequence=sequence, counts=counts(array), **fields
    )


def test_interleaved_signatures_with_bad_messages_between(client, fleet):
    stream = Stream(client.router.StreamSignatures)
    requests = [f"r{number}" for number in range(20)]
    parts = {name: chunks_of(drawn(n % 4, n), 3) for n, name in enumerate(requests)}
    sent = 0
    for sequence in range(3):
        for name in requests:
            last = sequence == 2
            message = chunk(fleet, name, sequence, parts[name][sequence], last=last)
            if last:
                message.route.explain = True
            stream.send(message)
            wrong = chunk(fleet, name, sequence + 5, parts[name][sequence])
            wrong.counts.num_tokens += 1
            stream.send(wrong, router_pb2.StreamSignaturesRequest())
            sent += 3
    answers = [stream.receive() for _ in range(sent)]
    assert stream.end() == []
    results = [answer.WhichOneof("result") for answer in answers]
    assert [results.count(r) for r in ("acknowledgement", "placement", "status")] == [40, 20, 120]
    for answer in answers:
        if answer.WhichOneof("result") == "status":
            status = read_status(answer.status)
            assert status.code == "INVALID_ARGUMENT"
            assert status.field == ("counts" if answer.request_id else "model")
        elif answer.WhichOneof("result") == "placement":
            assert REASON(answer.placement.reason) == "PLACEMENT_REASON_LOCALITY_BAND"
            assert answer.placement.coverage == 1.0
            assert (answer.model, answer.sequence) == (fleet, 2)
    assert client.booked(fleet) == 20


def test_a_route_on_the_last_chunk_waits_for_those_before(client, fleet):
    first, second = chunks_of(drawn(2, 1), 2)
    stream = Stream(client.router.StreamSignatures)
    last = chunk(fleet, "r", 1, second, last=True, prompt_tokens=30)
    last.route.wait_for_signature.FromSeconds(10)
    stream.send(last, chunk(fleet, "other", 0, first))
    assert stream.receive().request_id == "other"  # the stream goes on meanwhile
    stream.send(chunk(fleet, "r", 0, first))
    answers = {a.WhichOneof("result"): a for a in (stream.receive(), stream.receive())}
    assert answers.keys() == {"acknowledgement", "placement"}
    assert answers["placement"].placement.coverage == 1.0
    stream.end()


@pytest.mark.parametrize(("arrives", "coverage"), [(True, 1.0), (False, 2 / 3)])
def test_route_waits_for_the_signature(client, fleet, arrives, coverage):
    parts = chunks_of(drawn(2, 1), 3)
    register(client, fleet, "r", 0, parts[0])
    register(client, fleet, "r", 2, parts[2], last=True, prompt_tokens=30)
    wait = Duration(seconds=10) if arrives else Duration(nanos=50_000_000)
    request = router_pb2.RouteRequest(model=fleet, request_id="r", wait_for_signature=wait)
    waiting = client.router.Route.future(request)
    if arrives:
        register(client, fleet, "r", 1, parts[1])
    placement = waiting.result(timeout=20).placement
    assert placement.coverage == pytest.approx(coverage)
    assert REASON(placement.reason) == "PLACEMENT_REASON_LOCALITY_BAND"


def test_route_stream_matches_answers_by_request_and_attempt(client, fleet):
    stream = Stream(client.router.RouteStream)
    waiting = router_pb2.RouteStreamRequest(
        model=fleet, request_id="waits", wait_for_signature=Duration(seconds=10)
    )
    stream.send(waiting)
    for number in range(30):
        stream.send(
            router_pb2.RouteStreamRequest(model=fleet, request_id=f"r{number}", attempt=number),
            router_pb2.RouteStreamRequest(model=fleet, request_id=""),
            router_pb2.RouteStreamRequest(model=f"{fleet}-not", request_id=f"r{number}"),
        )
    answers = [stream.receive() for _ in range(90)]
    placed = {(a.request_id, a.attempt) for a in answers if a.HasField("placement")}
    assert placed == {(f"r{number}", number) for number in range(30)}
    codes = [read_status(a.status).code for a in answers if a.HasField("status")]
    assert sorted(set(codes)) == ["INVALID_ARGUMENT", "UNAVAILABLE"]
    assert len(codes) == 60
    register(client, fleet, "waits", 0, drawn(0), last=True)
    answer = stream.receive()
    assert (answer.request_id, answer.placement.coverage) == ("waits", 1.0)
    assert stream.end() == []
    assert client.booked(fleet) == 31


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
    assert (worker.booked_sequences, worker.foreign_sequences, worker.load) == (2, 3, 5.0)
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
    assert client.workers(model)["w0"].load == 1.0
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
    assert client.workers(model)["large"].load == most - 1


def test_partitions_travel_bit_for_bit(client, fleet):
    export = partition_pb2.ExportPartitionRequest(model=fleet)
    exported = client.partition.ExportPartition(export)
    assert exported.partition.active
    assert exported.partition.geometry == GEOMETRY
    elsewhere = f"{fleet}-copy"
    copy = client.partition.ImportPartition(
        partition_pb2.ImportPartitionRequest(model=elsewhere, data=exported.data)
    ).partition
    assert (copy.model, copy.version, copy.active) == (elsewhere, 1, False)
    with Refused("NOT_FOUND"):  # none is active yet
        client.partition.ExportPartition(partition_pb2.ExportPartitionRequest(model=elsewhere))
    back = client.partition.ExportPartition(
        partition_pb2.ExportPartitionRequest(model=elsewhere, version=1)
    )
    size = int.from_bytes(back.data[:8], "little")
    assert back.data[8 + size :] == exported.data[-len(back.data) + 8 + size :]  # the tensors
    unnamed = partition_pb2.ImportPartitionRequest(data=exported.data, activate=True)
    again = client.partition.ImportPartition(unnamed).partition
    assert (again.model, again.version, again.active) == (fleet, 2, True)
    assert again.metadata == exported.partition.metadata
    assert again.create_time == exported.partition.create_time


def test_partitions_are_listed_activated_and_rolled_back(client, fleet):
    client.fit(fleet, activate=False)
    client.fit(fleet)

    def listed():
        request = partition_pb2.ListPartitionsRequest(model=fleet)
        return client.partition.ListPartitions(request).partitions

    def active():
        return [info.version for info in listed() if info.active]

    assert [(info.version, info.num_slots) for info in listed()] == [(1, 4), (2, 2), (3, 2)]
    assert active() == [3]
    activate = partition_pb2.ActivatePartitionRequest(model=fleet, version=2)
    bindings = client.partition.ActivatePartition(activate).partition.bindings
    assert sorted(w for b in bindings for w in b.worker_ids) == ["w0", "w1", "w2", "w3"]
    rollback = partition_pb2.RollbackPartitionRequest(model=fleet)
    versions = [client.partition.RollbackPartition(rollback).partition.version for _ in range(2)]
    assert versions == [3, 1]
    with Refused("FAILED_PRECONDITION"):
        client.partition.RollbackPartition(rollback)
    assert active() == [1]
    with Refused("NOT_FOUND"):
        client.partition.ActivatePartition(
            partition_pb2.ActivatePartitionRequest(model=fleet, version=9)
        )


def test_a_fit_on_what_was_seen(client, model):
    client.register(model, "a")
    client.register(model, "b")
    fit = partition_pb2.FitPartitionRequest(model=model, transform="sqrt", layers=[0, 2])
    with Refused("FAILED_PRECONDITION"):
        client.partition.FitPartition(fit)
    for number in range(8):
        client.route(model, f"r{number}", counts=counts(drawn(number % 2, number)))
    info = client.partition.FitPartition(fit).partition
    assert (info.num_slots, info.transform, info.active) == (2, "sqrt", False)
    assert list(info.layers) == [0, 2]
    assert info.metadata["signatures"] == "8"


def test_policies_are_listed_and_set(client, fleet):
    listed = client.policy.ListPolicies(policy_pb2.ListPoliciesRequest())
    names = [policy.name for policy in listed.policies]
    assert {"locality-band", "round-robin", "random", "power-of-two-choices"} <= set(names)
    assert all(policy.description and policy.distribution for policy in listed.policies)
    (mine,) = [active for active in listed.active if active.model == fleet]
    assert (mine.name, mine.parameters["tau"]) == ("locality-band", "0.1")
    put = policy_pb2.SetPolicyRequest(model=fleet, name="round-robin")
    assert client.policy.SetPolicy(put).active.name == "round-robin"
    order = [client.route(fleet, f"r{number}").worker_id for number in range(4)]
    assert sorted(order) == ["w0", "w1", "w2", "w3"]
    assert client.route(fleet, "r9").policy == "round-robin"


@pytest.mark.parametrize(
    ("name", "parameters", "field", "expected"),
    [
        ("locality-bond", {}, "name", "one of"),
        ("", {}, "name", "one of"),
        ("locality-band", {"tau": "3"}, "parameters.tau", "a number, 0 to 2"),
        ("locality-band", {"tau": "nan"}, "parameters.tau", "a number, 0 to 2"),
        ("locality-band", {"tao": "0.1"}, "parameters.tao", "a parameter of locality-band"),
        ("random", {"seed": "-1"}, "parameters.seed", "an integer, at least 0"),
        ("round-robin", {"load": "x" * 10_000}, "parameters.load", "one of"),
    ],
)
def test_a_wrong_policy_changes_nothing(client, fleet, name, parameters, field, expected):
    with Refused("INVALID_ARGUMENT") as refused:
        client.policy.SetPolicy(
            policy_pb2.SetPolicyRequest(model=fleet, name=name, parameters=parameters)
        )
    assert refused.status.field == field
    assert refused.status.expected.startswith(expected)
    assert client.route(fleet, "r", dry_run=True).policy == "locality-band"


def test_chunks_by_layer_complete_a_signature(client, fleet):
    whole = drawn(3)
    for offset in reversed(range(LAYERS)):
        answer = client.router.RegisterSignature(
            router_pb2.RegisterSignatureRequest(
                model=fleet,
                request_id="r",
                last=True,
                counts=counts(whole[offset : offset + 1], offset=offset),
            )
        )
        assert (answer.tokens_held, answer.complete) == ((0, False) if offset else (30, True))
