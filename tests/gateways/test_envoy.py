"""A plain Envoy, as clients/llm-d/envoy.yaml sets it up, sends decodes where the daemon says."""

import base64
import http.client
import json
import subprocess
import time
from collections import Counter
from contextlib import contextmanager

import pytest
import yaml
from certificates import issue
from daemon import running_daemon
from decode_engines import engines
from envoys import LLM_D, PATIENCE, built_processor, process, released
from languages import ENVOY, needs_envoy, needs_go
from redis_server import free_port
from wire import Client, counts, drawn, eventually

MODEL = "tiny"
BEYOND_FLOATS = (1 << 53) + 1
GEOMETRY = "{ num_layers = 3, num_experts = 16, top_k = 2 }"
pytestmark = [pytest.mark.timeout(900), needs_go, needs_envoy]  # gRPC is compiled, once


class Gateway:
    """The daemon with its workers, the processor, an Envoy, and the engines behind it."""

    def __init__(self, daemon, client, fleet, port, processor) -> None:
        self.daemon, self.client, self.fleet, self.port = daemon, client, fleet, port
        self.processor = processor

    def start(self, body: dict, **headers: str) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        text = json.dumps(body)
        connection.request("POST", "/v1/completions", text, {"Host": "decode", **headers})
        return connection

    def post(self, body: dict, **headers: str) -> int:
        connection = self.start(body, **headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status

    def reached(self) -> list[int]:
        """How many requests each engine has had."""
        return [len(engine.bodies) for engine in self.fleet]

    def booked(self) -> int:
        return self.client.booked(MODEL)

    def released(self) -> Counter[str]:
        return released(self.daemon)


def prefilled(request_id: str, kind: int, seed: int = 9, **eldr) -> dict:
    """A decode request as a prefill engine's answer makes it; `kind` of text it is."""
    said = base64.b64encode(counts(drawn(kind, seed)).SerializeToString()).decode()
    eldr = {"model": MODEL, "request_id": request_id, "epoch": 0, "counts": said, **eldr}
    transfer = {"do_remote_prefill": True, "remote_block_ids": [[1, 2]], "eldr": eldr}
    return {"model": MODEL, "prompt": [1], "stream": True, "kv_transfer_params": transfer}


def envoy_config(fleet, port: int, processor: int, answers: str = "NONE") -> dict:
    config = yaml.safe_load((LLM_D / "envoy.yaml").read_text())
    resources = config["static_resources"]
    resources["listeners"][0]["address"]["socket_address"]["port_value"] = port
    manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    processing = manager["http_filters"][0]["typed_config"]
    processing["message_timeout"] = "20s"
    modes = processing["processing_mode"]
    assert modes["response_body_mode"] == "NONE"
    modes["response_body_mode"] = answers
    decode, extproc = resources["clusters"]

    def endpoints(*ports):
        at = [{"socket_address": {"address": "127.0.0.1", "port_value": each}} for each in ports]
        return [{"lb_endpoints": [{"endpoint": {"address": each}} for each in at]}]

    ports = [engine.server.server_port for engine in fleet]
    decode["load_assignment"]["endpoints"] = endpoints(*ports)
    extproc["load_assignment"]["endpoints"] = endpoints(processor)
    return config


@contextmanager
def before(fleet, daemon, folder, *flags, answers="NONE"):
    """Envoy and the processor, to which the flags are given: their port, and the processor."""
    port, extproc = free_port(), free_port()
    config = folder / "envoy.json"
    config.write_text(json.dumps(envoy_config(fleet, port, extproc, answers)))
    listen = ("--listen", f"127.0.0.1:{extproc}", "--router", daemon.grpc, *PATIENCE)
    envoy = (ENVOY, "-c", config, "--use-dynamic-base-id", "--concurrency", "1")
    with (
        process(built_processor(), *listen, *flags, log=folder / "extproc") as processor,
        process(*envoy, log=folder / "envoy"),
    ):
        yield port, processor


@pytest.fixture
def gateway(tmp_path, request):
    """All of it; a parameter says whether Envoy sends the processor the answers, too."""
    answers = getattr(request, "param", "NONE")
    with running_daemon() as daemon, Client(daemon.grpc) as client, engines(4) as fleet:
        for number, engine in enumerate(fleet):
            client.register(MODEL, f"d{number}", url=f"http://{engine.address}")
        client.fit(MODEL, kinds=4)
        with before(fleet, daemon, tmp_path, answers=answers) as (port, processor):
            up = Gateway(daemon, client, fleet, port, processor)
            eventually(lambda: is_up(up) and up.booked() == 0)
            for engine in fleet:
                engine.bodies.clear()
                engine.headers.clear()
            yield up


def is_up(gateway: Gateway) -> bool:
    """Requests are placed, which the first ones may be too early for."""
    try:
        gateway.post(prefilled(f"warm-{time.monotonic()}", 0))
    except OSError:
        return False
    return any(
        "lease_id" in body["kv_transfer_params"]["eldr"] for e in gateway.fleet for body in e.bodies
    )


def worker_of(gateway: Gateway, engine) -> str:
    [worker] = [
        worker.worker_id
        for worker in gateway.client.workers(MODEL).values()
        if worker.url == f"http://{engine.address}"
    ]
    return worker


def test_a_request_goes_where_the_daemon_books_it(gateway):
    for engine in gateway.fleet:
        engine.go.clear()
    connection = gateway.start({**prefilled("r", 2), "seed": BEYOND_FLOATS})
    eventually(lambda: sum(gateway.reached()) == 1)
    [engine] = [engine for engine in gateway.fleet if engine.bodies]
    workers = gateway.client.workers(MODEL)
    assert workers[worker_of(gateway, engine)].booked_sequences == gateway.booked() == 1
    transfer = engine.bodies[0]["kv_transfer_params"]
    assert transfer["remote_block_ids"] == [[1, 2]]
    assert engine.bodies[0]["seed"] == BEYOND_FLOATS
    # What the decode engine's connector goes by, and no counts, which it does not need.
    assert transfer["eldr"].keys() == {"request_id", "attempt", "lease_id", "num_sequences"}
    assert transfer["eldr"]["request_id"] == "r"
    time.sleep(0.3)
    assert gateway.booked() == 1  # as long as the answer is written
    for engine in gateway.fleet:
        engine.go.set()
    assert connection.getresponse().read().endswith(b"data: [DONE]\n\n")
    eventually(lambda: gateway.booked() == 0)


def test_requests_alike_go_to_the_same_two_workers(gateway):
    """The band has two: of four workers, each kind of text has its own two at most."""
    for kind in range(4):
        for number in range(6):
            assert gateway.post(prefilled(f"{kind}-{number}", kind, seed=number)) == 200
        reached = gateway.reached()
        assert sum(reached) == 6
        assert sum(count > 0 for count in reached) <= 2, reached
        for engine in gateway.fleet:
            engine.bodies.clear()


def test_a_caller_that_goes_ends_its_booking(gateway):
    for engine in gateway.fleet:
        engine.go.clear()
    connection = gateway.start(prefilled("r", 1))
    eventually(lambda: gateway.booked() == 1)
    connection.close()
    eventually(lambda: gateway.booked() == 0)


@pytest.mark.parametrize("gateway", ["STREAMED"], indirect=True)
def test_an_envoy_that_sends_the_answers_tells_how_they_ended(gateway):
    before = gateway.released()
    assert gateway.post(prefilled("whole", 1)) == 200
    eventually(lambda: gateway.released() == {**before, "COMPLETED": before["COMPLETED"] + 1})
    for engine in gateway.fleet:
        engine.go.clear()
    connection = gateway.start(prefilled("left", 1))
    assert connection.getresponse().read(6) == b"data: "
    connection.close()
    eventually(lambda: gateway.released()["CANCELLED"] == before["CANCELLED"] + 1)


def test_an_engines_errors_count_against_it(gateway):
    before = gateway.released()
    for engine in gateway.fleet:
        engine.status = 503
    assert gateway.post(prefilled("r", 1)) == 503
    eventually(lambda: gateway.released() == {**before, "FAILED": before["FAILED"] + 1})


def test_other_requests_pass_as_they_are(gateway):
    plain = {"model": MODEL, "prompt": "x", "seed": BEYOND_FLOATS, "temperature": 0.10}
    assert gateway.post(plain) == 200
    assert gateway.post(prefilled("r", 0, lease_id="theirs")) == 200  # eldr-proxy has booked it
    assert gateway.post(prefilled("r", 0, counts="no base64")) == 200
    bodies = [body for engine in gateway.fleet for body in engine.bodies]
    assert plain in bodies
    assert len(bodies) == 3
    assert gateway.booked() == 0


def test_a_body_beyond_the_buffer_is_refused(gateway):
    """As docs/llm-d.md says: Envoy holds the whole body for the processor."""
    assert gateway.post({"model": MODEL, "prompt": "x" * (31 << 20)}) == 200
    assert gateway.post({"model": MODEL, "prompt": "x" * (33 << 20)}) == 413


def test_requests_flow_without_the_daemon(gateway):
    gateway.daemon.process.kill()
    for number in range(32):
        assert gateway.post(prefilled(f"r{number}", 0)) == 200
    assert sum(count > 0 for count in gateway.reached()) > 2  # Envoy's own choice, by chance


def test_requests_flow_without_the_processor(gateway):
    gateway.processor.kill()
    gateway.processor.wait()
    for number in range(8):
        assert gateway.post(prefilled(f"r{number}", 0)) == 200
    assert gateway.booked() == 0


def test_an_address_that_a_caller_sends_is_not_followed(gateway):
    """Only the cluster's own endpoints can be named."""
    with engines(1) as [stranger]:
        headers = {"x-gateway-destination-endpoint": stranger.address}
        assert gateway.post({"model": MODEL, "prompt": "x"}, **headers) == 200
        assert not stranger.bodies


def test_the_daemon_may_want_certificates_and_a_token(tmp_path):
    authority = issue("authority")
    (tmp_path / "ca").write_bytes(authority.chain)
    server = issue("server", authority).write(tmp_path, "server")
    mine = issue("gateway", authority).write(tmp_path, "gateway")
    (tmp_path / "token").write_text("0f1e2d3c4b5a69788796a5b4c3d2e1f0\n")
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(
        '[[tokens]]\nname = "gateway"\ntoken = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"\n'
        'roles = ["route"]\n'
    )
    tokens.chmod(0o600)
    secured = ["--tls-cert", server[0], "--tls-key", server[1], "--tls-client-ca", tmp_path / "ca"]
    secured += ["--tokens", tokens, "--fleet", tmp_path / "fleet.toml"]
    with engines(2) as fleet:
        (tmp_path / "fleet.toml").write_text(
            "".join(
                f'[[workers]]\nmodel = "{MODEL}"\nworker_id = "d{number}"\n'
                f'url = "http://{engine.address}"\ngeometry = {GEOMETRY}\n'
                for number, engine in enumerate(fleet)
            )
        )
        flags = ["--tls-ca", tmp_path / "ca", "--tls-cert", mine[0], "--tls-key", mine[1]]
        flags += ["--token-file", tmp_path / "token"]
        with (
            running_daemon(*map(str, secured)) as daemon,
            before(fleet, daemon, tmp_path, *map(str, flags)) as (port, processor),
        ):
            eventually(lambda: is_up(Gateway(daemon, None, fleet, port, processor)))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--token-file", "/nowhere"], "/nowhere: no such file"),
        (["--tls-cert", "x"], "a client's certificate and its key need each other"),
        (["--tls-ca", __file__], "expected certificates in PEM, found none"),
    ],
)
def test_wrong_credentials_are_told_at_the_start(flags, told):
    ended = subprocess.run([built_processor(), *flags], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert told in ended.stderr
