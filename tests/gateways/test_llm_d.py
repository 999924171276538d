"""llm-d's coordinator and endpoint picker, in front of engines, with ELDR in between.

It needs both programs of llm-d's router (v0.10): ELDR_LLM_D_COORDINATOR names the coordinator, and
ELDR_LLM_D_EPP an endpoint picker that was built with the plugin, as docs/llm-d.md says.
"""

import base64
import http.client
import json
import os
import time
from collections import Counter
from contextlib import ExitStack

import pytest
import yaml
from daemon import running_daemon
from decode_engines import engines
from envoys import LLM_D, PATIENCE, built_processor, process, released
from languages import ENVOY, needs_envoy, needs_go
from redis_server import free_port
from wire import Client, counts, drawn, eventually

PROGRAMS = [os.environ.get(f"ELDR_LLM_D_{name}", "") for name in ("EPP", "COORDINATOR")]
MODEL = "tiny"
KINDS = ["text", "code", "table", "verse"]
EXT_PROC = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor"
pytestmark = [
    pytest.mark.timeout(900),
    needs_go,
    needs_envoy,
    pytest.mark.skipif(
        not all(PROGRAMS),
        reason="needs llm-d's programs: this file's head says which",
    ),
]


def prefill(body: dict, headers: dict[str, str]) -> dict:
    """What NIXL's connector with ELDR's around it says; vLLM's id is made of X-Request-Id."""
    assert body["kv_transfer_params"]["do_remote_decode"] is True
    assert body["max_tokens"] == 1
    name, seed = body["prompt"].split()
    said = counts(drawn(KINDS.index(name), int(seed))).SerializeToString()
    eldr = {
        "model": MODEL,
        "request_id": f"cmpl-{headers['x-request-id']}-0",
        "epoch": 0,
        "counts": base64.b64encode(said).decode(),
    }
    return {"remote_engine_id": "p", "remote_block_ids": [[1]], "eldr": eldr}


def cluster(name: str, *ports: int, http2: bool = False) -> dict:
    at = [{"socket_address": {"address": "127.0.0.1", "port_value": port}} for port in ports]
    found = {
        "name": name,
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": each}} for each in at]}],
        },
    }
    if http2:
        options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        found["typed_extension_protocol_options"] = {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    return found


def envoy_config(port: int, picker: int, processor: int | None) -> dict:
    """As llm-d sets Envoy up before its picker; eldr-extproc, if it is there, comes after that."""
    config = yaml.safe_load((LLM_D / "envoy.yaml").read_text())
    resources = config["static_resources"]
    resources["listeners"][0]["address"]["socket_address"]["port_value"] = port
    manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    eldr, last = manager["http_filters"]
    eldr["typed_config"]["message_timeout"] = "20s"
    both = ("request_body_mode", "response_body_mode")
    trailers = ("request_trailer_mode", "response_trailer_mode")
    headers = ("request_header_mode", "response_header_mode")
    modes = dict.fromkeys(both, "FULL_DUPLEX_STREAMED") | dict.fromkeys(headers + trailers, "SEND")
    llm_d = {
        "name": "llm-d",
        "typed_config": {
            "@type": EXT_PROC,
            "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}, "timeout": "10s"},
            "processing_mode": modes,
            "message_timeout": "20s",
        },
    }
    manager["http_filters"] = [llm_d, *([eldr] if processor else []), last]
    where = {"use_http_header": True, "http_header_name": "x-gateway-destination-endpoint"}
    resources["clusters"] = [
        {
            "name": "decode",
            "type": "ORIGINAL_DST",
            "connect_timeout": "1s",
            "lb_policy": "CLUSTER_PROVIDED",
            "original_dst_lb_config": where,
        },
        cluster("picker", picker, http2=True),
        cluster("eldr-extproc", processor or 1, http2=True),
    ]
    return config


def picker_config(folder, router: str, prefills, decodes, *, with_plugin: bool) -> dict:
    config = yaml.safe_load((LLM_D / "epp-config.yaml").read_text())
    pool = [("prefill", engine) for engine in prefills] + [("decode", each) for each in decodes]
    endpoints = [
        {
            "name": f"{role}-{number}",
            "address": "127.0.0.1",
            "port": str(engine.server.server_port),
            "labels": {"llm-d.ai/role": role},
        }
        for number, (role, engine) in enumerate(pool)
    ]
    (folder / "endpoints.yaml").write_text(yaml.safe_dump({"endpoints": endpoints}))
    [eldr] = [plugin for plugin in config["plugins"] if plugin["type"] == "eldr-decode"]
    eldr["parameters"] = {"router": router, "timeout": PATIENCE[1]}
    if not with_plugin:
        config["plugins"].remove(eldr)
        decode = config["schedulingProfiles"][1]["plugins"]
        decode[:] = [each for each in decode if each["pluginRef"] != "eldr-decode"]
    discovery = {"path": str(folder / "endpoints.yaml")}
    config["plugins"].append({"type": "file-discovery", "parameters": discovery})
    config["dataLayer"] = {"discovery": {"pluginRef": "file-discovery"}}
    return config


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
        port, picker, coordinator = free_port(), free_port(), free_port()
        processor = None if with_plugin else free_port()
        config = picker_config(tmp_path, daemon.grpc, [prefills], decodes, with_plugin=with_plugin)
        (tmp_path / "picker.yaml").write_text(yaml.safe_dump(config))
        (tmp_path / "envoy.json").write_text(json.dumps(envoy_config(port, picker, processor)))
        steps = {
            "server": {"listen_addr": f"127.0.0.1:{coordinator}", "shutdown_timeout": "1s"},
            "gateway": {"address": f"http://127.0.0.1:{port}", "timeout": "10s"},
            "pipeline": {
                "kv_connector": "kv-nixl",
                "steps": [{"type": "prefill"}, {"type": "decode"}],
            },
        }
        (tmp_path / "coordinator.yaml").write_text(yaml.safe_dump(steps))
        flags = {
            "--config-file": tmp_path / "picker.yaml",
            "--pool-name": "tiny",
            "--refresh-metrics-interval": "1s",
            "--grpc-port": picker,
            "--grpc-health-port": free_port(),
            "--metrics-port": free_port(),
            "--secure-serving=false": None,
            "--allow-experimental-plugins": None,  # header-profile-handler is one, in 0.10
            "--tracing=false": None,
            "--metrics-endpoint-auth=false": None,
        }
        parts = [str(part) for pair in flags.items() for part in pair if part is not None]
        up.enter_context(process(PROGRAMS[0], *parts, log=tmp_path / "picker"))
        envoy = ("-c", tmp_path / "envoy.json", "--use-dynamic-base-id", "--concurrency", "1")
        up.enter_context(process(ENVOY, *envoy, log=tmp_path / "envoy"))
        given = ("--config", tmp_path / "coordinator.yaml")
        up.enter_context(process(PROGRAMS[1], *given, log=tmp_path / "coordinator"))
        if processor:
            at = ("--listen", f"127.0.0.1:{processor}", "--router", daemon.grpc)
            extproc = (built_processor(), *at, *PATIENCE)
            up.enter_context(process(*extproc, log=tmp_path / "extproc"))
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
