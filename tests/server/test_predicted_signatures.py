"""Engines without a prefill of their own: each request's signature comes after its placement."""

from urllib.request import urlopen

import pytest
from daemon import running_daemon
from eldr.v1 import router_pb2
from wire import Client, counts, drawn

SOURCE = router_pb2.SignatureSource.Name


def register(client, model, request_id, kind):
    """What an engine reports of a prefill of its own."""
    request = router_pb2.RegisterSignatureRequest(
        model=model, request_id=request_id, counts=counts(drawn(kind)), last=True, prompt_tokens=30
    )
    assert client.router.RegisterSignature(request).complete


def turn(client, model, request_id, kind, **fields):
    placement = client.route(model, request_id, **fields)
    register(client, model, request_id, kind)
    assert client.release(model, request_id, decode_counts=counts(drawn(kind, 1))) == "RELEASED"
    return placement


@pytest.mark.parametrize(
    ("fields", "source"),
    [
        ({"session": "s"}, "SESSION"),
        ({"prefix_hashes": [11, 12, 13]}, "PREFIX"),
        ({"labels": {"tenant": "t"}}, "TENANT"),
    ],
)
def test_a_kind_of_requests_is_placed_by_what_it_used_before(client, fleet, fields, source):
    first = turn(client, fleet, "first", 2, **fields)
    assert SOURCE(first.signature_source) == "SIGNATURE_SOURCE_UNSPECIFIED"
    own = client.route(fleet, "own", counts=counts(drawn(2)), dry_run=True)
    assert SOURCE(own.signature_source) == "SIGNATURE_SOURCE_CALLER"
    second = client.route(fleet, "second", explain=True, **fields)
    assert SOURCE(second.signature_source) == f"SIGNATURE_SOURCE_{source}"
    assert (second.coverage, second.early) == (0, False)
    best = max(second.scores, key=lambda score: score.similarity)
    assert best.worker_id == max(own.scores, key=lambda score: score.similarity).worker_id
    assert best.in_band

    register(client, fleet, "second", 1)
    again = client.route(fleet, "second", **fields)
    assert (again.repeated, again.lease_id, again.worker_id) == (
        True,
        second.lease_id,
        second.worker_id,
    )
    assert (again.signature_source, again.coverage) == (second.signature_source, 1)
    explained = client.router.Explain(
        router_pb2.ExplainRequest(model=fleet, request_id="second")
    ).placement
    assert (explained.signature_source, explained.coverage) == (second.signature_source, 0)


def test_predictions_are_counted():
    with running_daemon() as daemon, Client(daemon.grpc) as client:
        client.register("m")
        for number in range(3):
            turn(client, "m", str(number), 1, session="s")
        client.route("m", "look", session="s", dry_run=True)
        with urlopen(f"http://{daemon.http}/metrics") as page:
            said = page.read().decode()
    assert 'eldr_signatures_predicted_total{model="m",source="SESSION"} 2.0' in said


def test_the_answer_is_the_same_after_a_restart(tmp_path):
    with running_daemon("--state", str(tmp_path)) as daemon, Client(daemon.grpc) as client:
        client.register("m")
        turn(client, "m", "first", 1, session="s")
        before = client.route("m", "second", session="s")
    with running_daemon("--state", str(tmp_path)) as daemon, Client(daemon.grpc) as client:
        after = client.route("m", "second", session="s")
        assert (after.repeated, after.lease_id) == (True, before.lease_id)
        assert (after.signature_source, after.coverage) == (before.signature_source, 0)
        third = client.route("m", "third", session="s")  # what it remembered is gone
        assert SOURCE(third.signature_source) == "SIGNATURE_SOURCE_UNSPECIFIED"


def test_predictions_can_be_switched_off():
    off = ("--prediction-memory-bytes", "0")
    with running_daemon(*off) as daemon, Client(daemon.grpc) as client:
        client.register("m")
        turn(client, "m", "first", 1, session="s")
        second = client.route("m", "second", session="s")
        assert SOURCE(second.signature_source) == "SIGNATURE_SOURCE_UNSPECIFIED"
