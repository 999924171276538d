"""llm-d's coordinator and endpoint picker before real engines: what they answer, and why there."""

import http.client
import json

import grpc
import pytest
from eldr.v1 import router_pb2, router_pb2_grpc
from languages import needs_envoy, needs_go
from llm_d import needs_llm_d, running_llm_d

pytestmark = [pytest.mark.vllm(engines=3), needs_go, needs_envoy, needs_llm_d]


@pytest.fixture(scope="module")
def rig(model, tmp_path_factory):
    from rig import running_apart

    with running_apart(model, tmp_path_factory.mktemp("rig")) as rig:
        yield rig


@pytest.mark.parametrize("with_plugin", [True, False])
def test_decodes_are_placed_by_their_experts(rig, tmp_path, with_plugin):
    from rig import MODEL, prompt, wait

    rig.await_workers()
    prompts = [prompt(seed) for seed in range(50, 54)]
    prompts.append(prompts[0] + prompt(54, 100))  # a second turn
    whole = rig.fit_on(prompts, 16)
    ports = [engine.port for engine in rig.decodes]
    llm_d = running_llm_d(
        tmp_path, rig.daemon.target, [rig.prefill.port], ports, with_plugin=with_plugin
    )
    with llm_d as port, grpc.insecure_channel(rig.daemon.target) as channel:
        router = router_pb2_grpc.RouterServiceStub(channel)
        first = {"model": MODEL, "prompt": prompts[0], "max_tokens": 2}
        wait(lambda: serves(port, first), 60)
        placed = []
        for number, (tokens, expected) in enumerate(zip(prompts, whole, strict=True)):
            body = {"model": MODEL, "prompt": tokens, "max_tokens": 16, "temperature": 0}
            name = f"{with_plugin}-{number}"
            status, answer = post(port, {**body, "ignore_eos": True}, name)
            assert (status, answer["choices"][0]["text"]) == (200, expected)
            request = router_pb2.ExplainRequest(model=MODEL, request_id=f"cmpl-{name}-0")
            explained = router.Explain(request, timeout=10).placement
            assert explained.reason == router_pb2.PLACEMENT_REASON_LOCALITY_BAND, explained
            assert explained.coverage == 1.0
            wait(lambda: not rig.booked(), 30)
            placed.append(explained.worker_id)
    held = {each.worker_id: each.cached_tokens for each in explained.scores}
    assert held[placed[0]] == (256 if with_plugin else 0)  # whole blocks of the first turn's 300


def serves(port: int, body: dict) -> bool:
    """The coordinator and all behind it have started."""
    try:
        return post(port, body)[0] == 200
    except OSError:
        return False


def post(port: int, body: dict, name: str = "first") -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    headers = {"Content-Type": "application/json", "X-Request-Id": name}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if answer.status == 200 else {}
