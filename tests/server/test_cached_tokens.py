"""What workers hold of a prompt, over the socket: it decides under marginal-cost, and is told."""

import pytest
from eldr.v1 import fleet_pb2, policy_pb2, router_pb2
from google.protobuf.duration_pb2 import Duration
from wire import counts, drawn


@pytest.fixture
def priced(client, model):
    """A model of three workers whose step times are known, under marginal-cost; its name."""
    lives = {worker: client.register(model, worker) for worker in ("w0", "w1", "w2")}
    client.policy.SetPolicy(
        policy_pb2.SetPolicyRequest(
            model=model, name="marginal-cost", parameters={"token_transfer_us": "50"}
        )
    )
    for worker, life in lives.items():
        for number in range(4):
            client.fleet.ReportLoad(
                fleet_pb2.ReportLoadRequest(
                    model=model, worker_id=worker, incarnation=life, report_number=number,
                    active_experts=4.0, batch_size=2.0, step_time=Duration(nanos=10_000_000),
                )
            )  # fmt: skip
    return model


def cached(scores):
    return {score.worker_id: score.cached_tokens for score in scores}


def test_what_the_caller_says_decides_and_is_explained(client, priced):
    def place(request_id, **fields):
        return client.route(priced, request_id, counts=counts(drawn(0)), explain=True, **fields)

    assert place("plain").worker_id == "w0"
    client.release(priced, "plain")
    said = {"w1": 400, "w2": 9_000, "elsewhere": 20_000}
    placement = place("r", cached_tokens=said, prompt_tokens=8_000, expected_output_tokens=100)
    assert placement.worker_id == "w2"
    assert cached(placement.scores) == {"w0": 0, "w1": 400, "w2": 8_000}
    assert placement.rule.endswith("less 4 ms for 8,000 prompt tokens it already holds)")
    again = place("r", cached_tokens={"w1": 9}, prompt_tokens=8_000, expected_output_tokens=100)
    assert (again.worker_id, again.repeated) == ("w2", True)
    asked = router_pb2.ExplainRequest(model=priced, request_id="r")
    later = client.router.Explain(asked).placement
    assert (later.rule, list(later.scores)) == (placement.rule, list(placement.scores))


def test_a_stream_says_it_too(client, priced):
    request = router_pb2.RouteStreamRequest(
        model=priced, request_id="r", counts=counts(drawn(0)), cached_tokens={"w1": 8_000}
    )
    (answer,) = client.router.RouteStream(iter([request]), timeout=20)
    assert answer.placement.worker_id == "w1"
