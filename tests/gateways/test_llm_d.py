"""llm-d's coordinator and endpoint picker, in front of engines, with ELDR in between."""

import base64
import http.client
import json
import time
from collections import Counter
from contextlib import ExitStack

import pytest
from daemon import running_daemon
from decode_engines import engines
from eldr.v1 import router_pb2
from envoys import released
from languages import needs_envoy, needs_go
from llm_d import needs_llm_d, running_llm_d
from wire import Client, counts, drawn, eventually

MODEL = "tiny"
TOKENS = 30
KINDS = ["text", "code", "table", "verse"]
pytestmark = [pytest.mark.timeout(900), needs_go, needs_envoy, needs_llm_d]


def prefill(body: dict, headers: dict[str, str]) -> dict:
    """What NIXL's connector with ELDR's around it says; vLLM's id is made of X-Request-Id."""
    assert body["kv_transfer_params"]["do_remote_decode"] is True
    assert body["max_tokens"] == 1
    name, seed, *_ = body["prompt"].split()
    said = counts(drawn(KINDS.index(name), int(seed), TOKENS)).SerializeToString()
    eldr = {
        "model": MODEL,
        "request_id": f"cmpl-{headers['x-request-id']}-0",
        "epoch": 0,
        "counts": base64.b64encode(said).decode(),
    }
    return {"remote_engine_id": "p", "remote_block_ids": [[1]], "eldr": eldr}


class Stack:
    def __init__(self, daemon, client, decodes, coordinator: int) -> None:
        self.daemon, self.client, self.decodes = daemon, client, decodes
        self._coordinator = coordinator

    def start(self, prompt: str) -> http.client.HTTPConnection:
        body = {"model": MODEL, "prompt": prompt, "stream": True, "max_tokens": 5}
        connection = http.client.HTTPConnection("127.0.0.1", self._coordinator, timeout=30)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        return connection

    def post(self, prompt: str) -> int:
        connection = self.start(prompt)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status

    def reached(self) -> list[int]:
        return [len(engine.bodies) for engine in self.decodes]

    def held(self) -> dict[str, int]:
        """Prompt tokens that the daemon knew workers to hold when it placed the one request."""
        [body] = [body for engine in self.decodes for body in engine.bodies]
        name = body["kv_transfer_params"]["eldr"]["request_id"]
        request = router_pb2.ExplainRequest(model=MODEL, request_id=name)
        scores = self.client.router.Explain(request).placement.scores
        return {each.worker_id: each.cached_tokens for each in scores if each.cached_tokens}

    def booked(self) -> int:
        return self.client.booked(MODEL)


def has_been_placed(stack: Stack) -> bool:
    try:
        stack.post(f"text {int(time.monotonic())}")
    except OSError:
        return False
    bodies = [body for engine in stack.decodes for body in engine.bodies]
    said = [(body.get("kv_transfer_params") or {}).get("eldr") or {} for body in bodies]
    return any("lease_id" in each for each in said) and stack.booked() == 0


@pytest.fixture(params=["plugin", "extproc"])
def stack(request, tmp_path):
    """All of it; ELDR is in llm-d's picker, or between that and Envoy's router."""
    with_plugin = request.param == "plugin"
    with ExitStack() as up:
        daemon = up.enter_context(running_daemon())
        client = up.enter_context(Client(daemon.grpc))
        [prefills], decodes = up.enter_context(engines(1)), up.enter_context(engines(4))
        prefills.prefill = prefill
        for number, engine in enumerate(decodes):
            client.register(MODEL, f"d{number}", url=f"http://{engine.address}")
        client.fit(MODEL, kinds=4)
        decoded, prefilled = (
            [engine.server.server_port for engine in pool] for pool in (decodes, [prefills])
        )
        llm_d = running_llm_d(tmp_path, daemon.grpc, prefilled, decoded, with_plugin=with_plugin)
        coordinator = up.enter_context(llm_d)
        found = Stack(daemon, client, decodes, coordinator)
        eventually(lambda: has_been_placed(found))
        for engine in decodes:
            engine.bodies.clear()
        yield found


def test_the_coordinators_decode_goes_where_the_daemon_books_it(stack):
    for engine in stack.decodes:
        engine.go.clear()
    connection = stack.start("code 7")
    eventually(lambda: sum(stack.reached()) == 1)
    [engine] = [engine for engine in stack.decodes if engine.bodies]
    [booked] = [each for each in stack.client.workers(MODEL).values() if each.booked_sequences]
    assert booked.url == f"http://{engine.address}"
    transfer = engine.bodies[0]["kv_transfer_params"]
    assert transfer["do_remote_prefill"] is True
    assert transfer["eldr"].keys() == {"request_id", "attempt", "lease_id", "num_sequences"}
    time.sleep(0.3)
    assert stack.booked() == 1
    for engine in stack.decodes:
        engine.go.set()
    assert connection.getresponse().read().endswith(b"data: [DONE]\n\n")
    eventually(lambda: stack.booked() == 0)


def test_requests_alike_go_to_the_same_two_workers(stack):
    for kind in KINDS:
        for number in range(6):
            assert stack.post(f"{kind} {number}") == 200
        reached = stack.reached()
        assert sum(reached) == 6
        assert sum(count > 0 for count in reached) <= 2, reached
        for engine in stack.decodes:
            engine.bodies.clear()


@pytest.mark.parametrize("stack", ["plugin"], indirect=True)
def test_a_second_turn_is_placed_knowing_who_holds_the_first(stack):
    first = "text 3 ".ljust(1024, "a")
    assert stack.post(first) == 200
    assert stack.held() == {}
    [engine] = [engine for engine in stack.decodes if engine.bodies]
    workers = stack.client.workers(MODEL).items()
    [holder] = [name for name, each in workers if each.url == f"http://{engine.address}"]
    engine.bodies.clear()
    assert stack.post(first.ljust(2048, "b")) == 200
    # llm-d takes four bytes for a token, and blocks of 64: the second prompt's first half is held.
    assert stack.held() == {holder: TOKENS // 2}


def test_a_caller_that_goes_ends_its_booking(stack):
    for engine in stack.decodes:
        engine.go.clear()
    connection = stack.start("text 3")
    eventually(lambda: stack.booked() == 1)
    connection.close()
    eventually(lambda: stack.booked() == 0)


@pytest.mark.parametrize("stack", ["plugin"], indirect=True)
def test_the_plugin_tells_how_answers_ended(stack):
    before = released(stack.daemon)
    assert stack.post("text 3") == 200
    eventually(lambda: released(stack.daemon) == before + Counter(COMPLETED=1))
    for engine in stack.decodes:
        engine.go.clear()
    connection = stack.start("text 4")
    assert connection.getresponse().read(6) == b"data: "
    connection.close()
    eventually(lambda: released(stack.daemon) == before + Counter(COMPLETED=1, CANCELLED=1))
    for engine in stack.decodes:
        engine.status = 503
        engine.go.set()
    assert stack.post("text 5") == 503
    ended = Counter(COMPLETED=1, CANCELLED=1, FAILED=1)
    eventually(lambda: released(stack.daemon) == before + ended)


def test_requests_flow_without_the_daemon(stack):
    stack.daemon.process.kill()
    for number in range(8):
        assert stack.post(f"text {number}") == 200
    assert sum(stack.reached()) == 8
