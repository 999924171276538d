"""Ray Serve LLM with real vLLM engines, a prefill and two decode replicas, and the daemon."""

import contextlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from concurrent import futures

import pytest
from eldr.v1 import fleet_pb2

pytestmark = pytest.mark.vllm(engines=3)

MODEL, APP = "tiny", "llm"
TOKENS = 24


def config(folder, replicas, kv_role):
    """As a user writes it, but for what makes engines small."""
    return {
        "model_loading_config": {"model_id": MODEL, "model_source": str(folder)},
        "accelerator_config": {"kind": "cpu"},
        "placement_group_config": {"bundles": [{"CPU": 0.5}]},
        "callback_config": {"callback_class": "ray_callbacks.NoDownload"},
        "log_engine_metrics": False,
        "deployment_config": {"num_replicas": replicas, "ray_actor_options": {"num_cpus": 0.5}},
        "engine_kwargs": {
            "dtype": "float32",
            "block_size": 32,
            "max_model_len": 1024,
            "max_num_seqs": 16,
            "max_num_batched_tokens": 256,
            "enforce_eager": True,
            "chat_template": "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}",
            "kv_transfer_config": {
                "kv_connector": "NixlConnector",
                # more processes than cores
                "kv_connector_module_path": "benchmarks.demos.demo_vllm.tame",
                "kv_role": kv_role,
                "kv_buffer_device": "cpu",
                "kv_connector_extra_config": {"kv_lease_duration": 180},
            },
        },
    }


class Deployed:
    """The application, and what is asked of it and of its daemon."""

    def __init__(self, fleet, port):
        self.fleet, self.port = fleet, port

    def complete(self, prompt, max_tokens=TOKENS, **more):
        body = json.dumps(self.body(prompt, max_tokens, **more)).encode()
        url = f"http://127.0.0.1:{self.port}/v1/completions"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error.code}: {error.read().decode()}") from error

    def body(self, prompt, max_tokens, **more):
        return {
            "model": MODEL,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            **more,
        }

    def whole(self, prompt, max_tokens=TOKENS):
        """Tokens of one engine that computes the prompt and writes the answer."""
        from ray import serve
        from ray.serve.llm.openai_api_models import CompletionRequest
        from rig import ids

        handle = serve.get_deployment_handle(f"Prefill:{MODEL}", APP).options(stream=True)
        request = CompletionRequest(**self.body(prompt, max_tokens))
        (answer,) = handle.completions.remote(request)
        return ids(answer.model_dump())

    @contextlib.contextmanager
    def stream(self, prompt, max_tokens):
        """The connection, after the first event."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        body = json.dumps(self.body(prompt, max_tokens, stream=True))
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", body, headers)
        answer = connection.getresponse()
        assert answer.readline().startswith(b"data:")
        yield answer
        connection.sock.shutdown(2)
        connection.close()

    def chat(self, **more):
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Where shall this be decoded?"}],
            "max_completion_tokens": TOKENS,
            "temperature": 0,
            **more,
        }
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        request = urllib.request.Request(
            url, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()

    def placed(self, by="worker"):
        """Placements so far, by a label."""
        with urllib.request.urlopen(f"http://{self.fleet.daemon.http}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
        found = {}
        for line in lines:
            pattern = rf'eldr_placements_total{{.*\b{by}="(.*?)".*}} (\S+)'
            if match := re.match(pattern, line):
                found[match[1]] = found.get(match[1], 0) + int(float(match[2]))
        return found

    def decodes(self):
        return {name: w for name, w in self.fleet.workers().items() if "#Decode:" in name}


@pytest.fixture(scope="module")
def deployed(cluster, model, tmp_path_factory):
    from eldr_ray.llm import build_pd_openai_app
    from ray import serve
    from ray_fleet import Fleet
    from rig import prompt, wait

    fleet = Fleet(tmp_path_factory.mktemp("daemon"))
    alone = {"num_replicas": 1, "ray_actor_options": {"num_cpus": 0.1}}
    app = build_pd_openai_app(
        {
            "prefill_config": config(model, 1, "kv_producer"),
            "decode_config": config(model, 2, "kv_consumer"),
            "eldr": {"router": fleet.target, "timeout": 5.0},  # on a busy machine
            # Bookings end by the engines' word alone.
            "request_router_kwargs": {"timeout": 2.0, "release_after": 600.0},
            "ingress_deployment_config": alone,
            "orchestrator_deployment_config": alone,
        }
    )
    try:
        serve.run(app, name=APP)
        deployed = Deployed(fleet, cluster)
        fleet.await_workers(3)

        def warm():  # the first transfer of a pair has a deadline, which a busy machine can miss
            with contextlib.suppress(AssertionError):
                deployed.complete(prompt(len(deployed.placed())), 2)
            return deployed.placed().keys() == deployed.decodes().keys()

        fleet.set_policy("round-robin")
        wait(warm, 60)
        fleet.await_no_bookings()
        yield deployed
    finally:
        serve.delete(APP)
        fleet.daemon.kill()


def test_each_replica_is_a_worker(deployed):
    workers = deployed.fleet.workers()
    assert len(deployed.decodes()) == 2
    (prefill,) = workers.keys() - deployed.decodes().keys()
    assert prefill.startswith(f"{APP}#Prefill:{MODEL}#")
    assert workers[prefill].capture.state == fleet_pb2.CAPTURE_STATE_CAPTURING
    assert not workers[prefill].capture.reason  # its probe has verified it
    for worker in deployed.decodes().values():
        assert worker.capacity.sequences == 16
        assert worker.worker_id.startswith(f"{APP}#Decode:{MODEL}#")


def test_outputs_are_those_of_one_engine(deployed):
    from rig import ids, prompt

    before = deployed.placed()
    prompts = [prompt(seed) for seed in range(10, 18)]
    for tokens in prompts:
        answer = deployed.complete(tokens)
        assert ids(answer) == deployed.whole(tokens)
        assert answer["kv_transfer_params"] is None  # internal addresses are no caller's business
        deployed.fleet.await_no_bookings()  # its engine has ended it
    after = deployed.placed()
    assert {name: after[name] - before[name] for name in after} == dict.fromkeys(after, 4)


def test_outputs_where_experts_decide(deployed):
    """By a partition of what the prefill engine has sent, and the default policy."""
    from rig import ids, prompt

    deployed.fleet.fit()
    deployed.fleet.set_policy("locality-band", min_band="1")
    before = deployed.placed("reason")
    prompts = [prompt(seed) for seed in range(20, 26)]
    assert [ids(deployed.complete(each)) for each in prompts] == list(map(deployed.whole, prompts))
    after = deployed.placed("reason")
    assert sum(after.values()) - sum(before.values()) == len(prompts)
    assert after["LOCALITY_BAND"] - before.get("LOCALITY_BAND", 0) == len(prompts)
    deployed.fleet.await_no_bookings()


def test_chat_with_and_without_a_stream(deployed):
    before = sum(deployed.placed().values())
    whole = json.loads(deployed.chat())["choices"][0]["message"]["content"]
    *events, done = deployed.chat(stream=True).strip().split("\n\n")
    assert done == "data: [DONE]"
    deltas = [json.loads(e.removeprefix("data: "))["choices"][0]["delta"] for e in events]
    assert "".join(delta.get("content") or "" for delta in deltas) == whole
    assert len(whole) > 1
    assert sum(deployed.placed().values()) - before == 2
    deployed.fleet.await_no_bookings()


def test_the_engine_that_is_booked_has_the_request(deployed):
    from rig import prompt, wait

    for seed in range(2):
        with deployed.stream(prompt(seed), 600):

            def running():  # by the engines' reports
                return sorted(
                    (worker.booked_sequences, worker.batch_size, worker.foreign_sequences)
                    for worker in deployed.decodes().values()
                ) == [(0, 0, 0), (1, 1, 0)]

            wait(running, 10, deployed.decodes)
        deployed.fleet.await_no_bookings()  # the caller has gone


def test_outputs_of_several_in_flight(deployed):
    from rig import ids, prompt

    prompts = [prompt(seed, 100 + 7 * seed) for seed in range(16)]
    with futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(deployed.complete, prompts))
    equal = [ids(a) == deployed.whole(p) for a, p in zip(answers, prompts, strict=True)]
    print(f"8 in flight, float32: {sum(equal)} of {len(equal)} equal those of one engine")
    assert all(len(ids(answer)) == TOKENS for answer in answers)
    deployed.fleet.await_no_bookings()


def test_what_cannot_be_taken_apart_is_served_by_one_engine(deployed):
    from rig import prompt

    before, prompts = deployed.placed(), [prompt(1), prompt(2)]
    choices = deployed.complete(prompts)["choices"]
    assert [choice["token_ids"] for choice in choices] == list(map(deployed.whole, prompts))
    assert deployed.placed() == before


def test_a_wrong_request_is_told_so(deployed):
    with pytest.raises(AssertionError, match="400: "):
        deployed.complete([1] * 2000)
    deployed.fleet.await_no_bookings()


def test_requests_go_on_without_the_daemon(deployed):
    from rig import ids, prompt, wait

    fleet = deployed.fleet
    prompts = [prompt(seed) for seed in range(30, 36)]
    whole = [deployed.whole(tokens) for tokens in prompts]
    fleet.daemon.kill()
    begun = time.monotonic()
    assert [ids(deployed.complete(tokens)) for tokens in prompts] == whole
    print(f"{len(prompts)} requests without the daemon: {time.monotonic() - begun:.1f} s")
    fleet.restart()
    fleet.await_workers(3)

    def placed_again():
        assert ids(deployed.complete(prompts[0])) == whole[0]
        return deployed.placed()

    wait(placed_again, 15)
    assert [ids(deployed.complete(tokens)) for tokens in prompts] == whole
    assert sum(deployed.placed().values()) >= len(prompts)
    fleet.await_no_bookings()


@pytest.mark.skipif("ELDR_RAY_LONG" not in os.environ, reason="ELDR_RAY_LONG=1: takes a minute")
def test_a_replica_that_dies_is_replaced(deployed):
    import ray
    from rig import ids, prompt, wait

    fleet = deployed.fleet
    before = deployed.decodes().keys()
    prompts = [prompt(seed) for seed in range(40, 46)]
    whole = [deployed.whole(tokens) for tokens in prompts]
    victim = min(before)
    ray.kill(ray.get_actor(f"SERVE_REPLICA::{victim}", namespace="serve"))
    assert [ids(deployed.complete(tokens)) for tokens in prompts] == whole
    assert set(deployed.placed()) - {victim} == before - {victim}
    begun = time.monotonic()
    wait(lambda: victim not in fleet.workers(), 30)
    print(f"the daemon knew the one that died for {time.monotonic() - begun:.0f} s more")
    wait(lambda: len(deployed.decodes()) == 2, 120)
    (joined,) = deployed.decodes().keys() - before
    fleet.set_policy("round-robin")

    def used():  # its first transfer has a deadline, which a busy machine can miss
        with contextlib.suppress(AssertionError):
            assert [ids(deployed.complete(tokens)) for tokens in prompts] == whole
        return deployed.placed().get(joined)

    wait(used, 60)
    fleet.await_no_bookings()
