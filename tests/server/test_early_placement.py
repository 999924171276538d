"""Requests placed while their prefill still runs: the worker stays, the signature grows."""

import pytest
from eldr.v1 import policy_pb2, router_pb2
from wire import Refused, counts, drawn

REASON = router_pb2.PlacementReason.Name
FIRST, REST = drawn(kind=1, seed=1, tokens=10), drawn(kind=2, seed=2, tokens=20)


def begin(client, model, request_id="r", **fields):
    return register(client, model, request_id, 0, FIRST, **fields)


def end(client, model, request_id="r", **fields):
    return register(client, model, request_id, 1, REST, last=True, prompt_tokens=30, **fields)


def register(client, model, request_id, sequence, array, last=False, prompt_tokens=0, **fields):
    request = router_pb2.RegisterSignatureRequest(
        model=model,
        request_id=request_id,
        sequence=sequence,
        counts=counts(array, **fields),
        last=last,
        prompt_tokens=prompt_tokens,
    )
    return client.router.RegisterSignature(request)


def predictions(client, model):
    """What `marginal-cost` says of each worker's batch, with one more request."""
    probe = client.route(model, "probe", counts=counts(drawn(kind=3)), dry_run=True)
    return [score.predicted_active_experts for score in probe.scores]


def use_marginal_cost(client, model):
    client.policy.SetPolicy(policy_pb2.SetPolicyRequest(model=model, name="marginal-cost"))


def test_the_worker_stays_when_the_rest_comes(client, fleet):
    chunk = router_pb2.StreamSignaturesRequest(
        model=fleet, request_id="r", counts=counts(FIRST), route=router_pb2.RouteRequest()
    )
    [answer] = client.router.StreamSignatures(iter([chunk]))
    early = answer.placement
    assert REASON(early.reason) == "PLACEMENT_REASON_LOCALITY_BAND"
    assert (early.early, early.coverage, early.repeated) == (True, 1.0, False)
    assert client.route(fleet, "r").early
    assert end(client, fleet).complete
    final = client.route(fleet, "r")
    assert (final.worker_id, final.lease_id) == (early.worker_id, early.lease_id)
    assert (final.early, final.coverage, final.repeated) == (False, 1.0, True)
    assert client.booked(fleet) == 1
    assert client.release(fleet, "r") == "RELEASED"


def test_predictions_become_those_of_the_whole_signature(client, fleet):
    whole = f"{fleet}-whole"
    for number in range(4):
        client.register(whole, f"w{number}")
    client.fit(whole, kinds=4)
    for model in (fleet, whole):
        use_marginal_cost(client, model)
    begin(client, fleet)
    begin(client, whole)
    end(client, whole)
    assert client.route(fleet, "r", pinned_worker="w2").early
    assert not client.route(whole, "r", pinned_worker="w2").early
    assert predictions(client, fleet)[2] != predictions(client, whole)[2]
    end(client, fleet)
    assert predictions(client, fleet) == predictions(client, whole)
    end(client, fleet)  # the same again changes nothing
    assert predictions(client, fleet) == predictions(client, whole)
    client.release(fleet, "r")
    client.release(whole, "r")
    assert predictions(client, fleet) == predictions(client, whole)


def test_coverage_is_that_of_what_was_seen_and_then_of_the_whole(client, fleet):
    begin(client, fleet, unknown_tokens=40)
    early = client.route(fleet, "r")
    assert (early.early, early.coverage) == (True, 0.2)
    assert REASON(early.reason) == "PLACEMENT_REASON_LEAST_LOADED_LOW_COVERAGE"
    end(client, fleet)
    assert client.route(fleet, "r").coverage == pytest.approx(30 / 70)


def test_a_dry_run_awaits_nothing(client, fleet):
    begin(client, fleet)
    assert client.route(fleet, "r", dry_run=True).early
    end(client, fleet)
    assert not client.route(fleet, "r", dry_run=True).early
    assert client.booked(fleet) == 0


def test_a_released_request_stays_released(client, fleet):
    use_marginal_cost(client, fleet)
    before = predictions(client, fleet)
    begin(client, fleet)
    client.route(fleet, "r")
    assert client.release(fleet, "r") == "RELEASED"
    end(client, fleet)
    assert client.booked(fleet) == 0
    assert predictions(client, fleet) == before
    with Refused("FAILED_PRECONDITION"):
        client.route(fleet, "r")


def test_a_moved_request_takes_its_signature_along(client, fleet):
    use_marginal_cost(client, fleet)
    begin(client, fleet)
    first = client.route(fleet, "r", pinned_worker="w0")
    second = client.route(fleet, "r", attempt=1, pinned_worker="w1")
    assert (first.early, second.early) == (True, True)
    early = predictions(client, fleet)
    end(client, fleet)
    now = predictions(client, fleet)
    assert now[0] == pytest.approx(now[2])  # nothing of it is left on the worker it came from
    assert now[1] != early[1]
    assert not client.route(fleet, "r", attempt=1, pinned_worker="w1").early


def test_a_later_epoch_completes_it_too(client, fleet):
    begin(client, fleet)
    worker = client.route(fleet, "r").worker_id
    again = router_pb2.RegisterSignatureRequest(
        model=fleet, request_id="r", epoch=1, counts=counts(REST), last=True
    )
    assert client.router.RegisterSignature(again).complete
    final = client.route(fleet, "r")
    assert (final.worker_id, final.early) == (worker, False)


def test_before_any_chunk_it_is_placed_by_load_and_takes_the_signature_in(client, fleet):
    placement = client.route(fleet, "r")
    assert REASON(placement.reason) == "PLACEMENT_REASON_LEAST_LOADED_NO_SIGNATURE"
    assert (placement.early, placement.coverage) == (False, 0.0)
    begin(client, fleet)
    end(client, fleet)
    assert client.route(fleet, "r").coverage == 1.0


def test_counts_that_came_inline_are_whole(client, fleet):
    begin(client, fleet, unknown_tokens=40)
    placed = client.route(fleet, "r", counts=counts(REST))
    assert (placed.early, placed.coverage) == (False, 1.0)
    end(client, fleet)
    assert client.route(fleet, "r", counts=counts(REST)).coverage == 1.0


def test_an_unknown_model_and_an_unknown_request(client, model):
    begin(client, model)
    with Refused("UNAVAILABLE"):
        client.route(model, "r")
    client.register(model, "w0")
    assert client.route(model, "r").early
    end(client, model, "other")  # of no booking
    assert client.route(model, "r").early
