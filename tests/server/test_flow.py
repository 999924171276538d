"""The whole conversation, as a scheduler, workers and an operator have it with the daemon."""

import queue

import grpc
import numpy as np
import pytest
from eldr.v1 import fleet_pb2, router_pb2
from google.protobuf.duration_pb2 import Duration
from wire import LAYERS, Refused, counts, drawn, read_status

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
    assert 890 < placement.lease_remaining.ToTimedelta().total_seconds() <= 900

    worker = client.workers(fleet)[placement.worker_id]
    assert (worker.booked_sequences, worker.load) == (1, 1 / worker.capacity.sequences)
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
    with Refused("FAILED_PRECONDITION"):
        client.route(model, "r", prompt_tokens=1, session="s")
    assert client.release(model, "late") == "UNKNOWN"
    with Refused("FAILED_PRECONDITION"):
        client.route(model, "late")
    assert client.booked(model) == 1


def test_what_tells_who_holds_the_prompt_is_no_part_of_the_payload(client, model):
    """A shim that has asked for a placement says it where its caller need not."""
    client.register(model, "a")
    hashes = [2**64 - 1 - number for number in range(5_000)]
    assert not client.route(model, "r", prefix_hashes=hashes).repeated
    for other in ({"prefix_hashes": hashes[:7]}, {"cached_tokens": {"a": 9}}, {}):
        assert client.route(model, "r", **other).repeated


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
