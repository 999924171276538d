"""Ray Serve LLM with real vLLM engines: a prefill and two decode replicas, the daemon beside them."""

import json
import time
import urllib.request
from concurrent import futures

import pytest

pytestmark = pytest.mark.vllm(engines=3)

MODEL, APP = "tiny", "llm"


class Deployed:
    """The application, and what is asked of it."""

    def __init__(self, daemon, port):
        self.daemon, self.url = daemon, f"http://127.0.0.1:{port}"

    def complete(self, prompt, max_tokens=16, **more):
        body = {
            "model": MODEL,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            **more,
        }
        request = urllib.request.Request(
            self.url + "/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


def config(folder, target, replicas):
    """As a user writes it, but for what makes engines small."""
    nixl = {
        "kv_connector": "NixlConnector",
        "kv_connector_module_path": "benchmarks.demos.demo_vllm.tame",  # more processes than cores
        "kv_role": "kv_both",
        "kv_buffer_device": "cpu",
        "kv_connector_extra_config": {"kv_lease_duration": 180},
    }
    return {
        "model_loading_config": {"model_id": MODEL, "model_source": str(folder)},
        "accelerator_config": {"kind": "cpu"},
        "placement_group_config": {"bundles": [{"CPU": 0.5}]},
        "log_engine_metrics": False,
        "deployment_config": {
            "num_replicas": replicas,
            "ray_actor_options": {"num_cpus": 0.5},
        },
        "engine_kwargs": {
            "dtype": "float32",
            "block_size": 32,
            "max_model_len": 1024,
            "max_num_seqs": 16,
            "max_num_batched_tokens": 256,
            "enforce_eager": True,
            "kv_transfer_config": nixl,
        },
    }


@pytest.fixture(scope="module")
def deployed(cluster, model, tmp_path_factory):
    from eldr_ray.llm import build_pd_openai_app
    from ray import serve
    from rig import Daemon

    daemon = Daemon(tmp_path_factory.mktemp("daemon"))
    alone = {"num_replicas": 1, "ray_actor_options": {"num_cpus": 0.1}}
    app = build_pd_openai_app(
        {
            "prefill_config": config(model, daemon.target, 1),
            "decode_config": config(model, daemon.target, 2),
            "eldr": {"router": daemon.target, "timeout": 5.0},
            "request_router_kwargs": {"timeout": 2.0},
            "ingress_deployment_config": alone,
            "orchestrator_deployment_config": alone,
        }
    )
    begun = time.monotonic()
    serve.run(app, name=APP)
    print("up", time.monotonic() - begun)
    yield Deployed(daemon, cluster)
    daemon.kill()


def test_it(deployed):
    from rig import prompt

    for seed in range(4):
        print(deployed.complete(prompt(seed)))
