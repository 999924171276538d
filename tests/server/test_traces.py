"""The daemon's spans, as a receiver of OTLP gets them over a socket."""

import itertools
import os
import socket
import subprocess
import sys
import time

import grpc
import numpy as np
import pytest
from daemon import running_daemon
from documented import blocks
from eldr.v1 import fleet_pb2, router_pb2
from eldr.v1.fleet_pb2_grpc import FleetServiceStub
from eldr.v1.router_pb2_grpc import RouterServiceStub
from eldr_client import RouterClient
from eldr_client.traces import begin
from otlp_receiver import running_receiver

MODEL = "traced"
GEOMETRY = {"num_layers": 2, "num_experts": 4, "top_k": 1}
COUNTS = np.array([[3, 1, 0, 0], [0, 0, 2, 2]])
ROUTE = "eldr.v1.RouterService/Route"


def parent(number, flags="01"):
    return f"00-{number:032x}-{number:016x}-{flags}"


def trace(number):
    return f"{number:032x}"


@pytest.fixture(scope="module")
def receiver():
    with running_receiver() as receiver:
        yield receiver


def join(daemon):
    with grpc.insecure_channel(daemon.grpc) as channel:
        FleetServiceStub(channel).RegisterWorker(
            fleet_pb2.RegisterWorkerRequest(
                worker_id="d0",
                model=MODEL,
                url="http://127.0.0.1:9",
                role=fleet_pb2.WORKER_ROLE_DECODE,
                geometry=GEOMETRY,
            )
        )


@pytest.fixture(scope="module")
def daemon(receiver):
    with running_daemon(env=receiver.variables) as daemon:
        join(daemon)
        yield daemon


@pytest.fixture
def stub(daemon):
    with grpc.insecure_channel(daemon.grpc) as channel:
        yield RouterServiceStub(channel)


NUMBERS = itertools.count(1)


@pytest.fixture
def number():
    """The number of a trace of this test's own."""
    return next(NUMBERS)


def spans_of(receiver, number, count):
    def of_trace(spans):
        return [span for span in spans if span.trace_id == trace(number)]

    return of_trace(receiver.wait_for(lambda spans: len(of_trace(spans)) >= count))


def test_calls_of_the_client_join_its_trace(daemon, receiver, number):
    context = {"traceparent": parent(number), "tracestate": "vendor=1"}
    with RouterClient(daemon.grpc, top_k=1, timeout=5.0, trace_context=lambda: context) as client:
        client.register_signature(MODEL, "r", COUNTS, prompt_tokens=4)
        placement = client.route(MODEL, "r", session="secret-session", labels={"tenant": "ten"})
        client.release(MODEL, "r", lease_id=placement.lease_id)
    register, route, release = spans_of(receiver, number, 3)
    for span in (register, route, release):
        assert span.service == "eldr-server"
        assert span.kind == "server"
        assert span.parent_id == f"{number:016x}"
        assert span.attributes["eldr.request_id"] == "r"
        assert span.attributes["gen_ai.request.model"] == MODEL
        assert span.attributes["rpc.system.name"] == "grpc"
        assert span.attributes["rpc.method"] == span.name
        assert span.attributes["rpc.response.status_code"] == "OK"
        assert not span.is_error
    assert register.attributes["eldr.complete"] is True
    assert route.name == ROUTE
    assert route.attributes["eldr.worker_id"] == "d0"
    assert route.attributes["eldr.reason"] == placement.reason.value
    assert route.attributes["eldr.policy"] == "locality-band"
    assert route.attributes["eldr.lease_id"] == placement.lease_id
    assert route.attributes["eldr.signature_source"] == "REGISTERED"
    assert release.attributes["eldr.outcome"] == "COMPLETED"
    assert release.attributes["eldr.release_result"] == "RELEASED"
    said = repr([span.attributes for span in (register, route, release)])
    assert "secret" not in said
    assert "'ten'" not in said


def test_messages_of_one_stream_are_parts_of_their_own_traces(daemon, receiver, number):
    ours = iter((number, other := next(NUMBERS)))
    context = {}
    with RouterClient(daemon.grpc, top_k=1, timeout=5.0, trace_context=lambda: context) as client:
        for name in ("s1", "s2"):
            context["traceparent"] = parent(next(ours))
            placement = client.stream_signature(MODEL, name, COUNTS, prompt_tokens=4, route={})
            client.release(MODEL, name, lease_id=placement.lease_id)
    for trace_number, name in ((number, "s1"), (other, "s2")):
        streamed, _ = spans_of(receiver, trace_number, 2)
        assert streamed.name == "eldr.v1.RouterService/StreamSignatures"
        assert streamed.attributes["eldr.request_id"] == name
        assert streamed.attributes["eldr.worker_id"] == "d0"


def test_a_message_without_a_trace_continues_that_of_its_stream(stub, receiver, number):
    asked = [
        router_pb2.RouteStreamRequest(model=MODEL, request_id="w1"),
        router_pb2.RouteStreamRequest(model="unknown", request_id="w2"),
        router_pb2.RouteStreamRequest(
            model=MODEL, request_id="w3", trace_context={"traceparent": parent(next(NUMBERS))}
        ),
    ]
    answers = list(stub.RouteStream(iter(asked), metadata=(("traceparent", parent(number)),)))
    assert len(answers) == 3
    spans = {span.attributes["eldr.request_id"]: span for span in spans_of(receiver, number, 2)}
    assert spans.keys() == {"w1", "w2"}
    assert spans["w1"].attributes["eldr.worker_id"] == "d0"
    assert spans["w2"].attributes["error.type"] == "UNAVAILABLE"
    assert spans["w2"].is_error


def test_what_the_caller_did_wrong_is_no_error_of_the_daemon(stub, receiver, number):
    with pytest.raises(grpc.RpcError) as refused:
        stub.Route(
            router_pb2.RouteRequest(model="m" * 3_000, request_id="r"),
            metadata=(("traceparent", parent(number)),),
        )
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    (span,) = spans_of(receiver, number, 1)
    assert span.attributes["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert span.attributes["error.type"] == "INVALID_ARGUMENT"
    assert span.attributes["gen_ai.request.model"] == "m" * 512
    assert not span.is_error


def test_a_context_that_is_none_and_one_that_is_not_sampled(stub, receiver, number):
    """Calls are answered all the same; what nobody samples is not sent."""
    for name, fields in (
        ("malformed", {"traceparent": "00-zz", "tracestate": "="}),
        ("unsampled", {"traceparent": parent(next(NUMBERS), flags="00")}),
        ("long", {"traceparent": parent(number), "tracestate": "v=" + "x" * 5_000}),
    ):
        message = router_pb2.RouteStreamRequest(model=MODEL, request_id=name, trace_context=fields)
        (answer,) = stub.RouteStream(iter([message]))
        assert answer.placement.worker_id == "d0"
    spans_of(receiver, number, 1)
    names = [span.attributes["eldr.request_id"] for span in receiver.spans]
    assert "unsampled" not in names
    (alone,) = (s for s in receiver.spans if s.attributes["eldr.request_id"] == "malformed")
    assert alone.parent_id == ""


def test_a_look_whether_the_daemon_lives_is_no_trace(stub, receiver, number):
    stub.Route(router_pb2.RouteRequest(model=MODEL, request_id="look", dry_run=True))
    stub.Route(
        router_pb2.RouteRequest(model=MODEL, request_id="dry", dry_run=True),
        metadata=(("traceparent", parent(number)),),
    )
    spans_of(receiver, number, 1)
    assert "look" not in [span.attributes["eldr.request_id"] for span in receiver.spans]


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_SERVICE_NAME": "eldr"},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_TRACES_EXPORTER": "", "OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_nothing_is_traced_unless_it_is_asked_for(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not begin("test", pytest.fail).is_on


@pytest.mark.parametrize(
    ("protocol", "variables"),
    [
        ("grpc", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"}),
        ("http/protobuf", {"OTEL_TRACES_EXPORTER": "otlp"}),
        ("grpc", {"OTEL_TRACES_EXPORTER": " console , otlp_proto_http"}),
    ],
)
def test_ways_to_ask(protocol, variables, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    traces = begin("test", pytest.fail)
    assert traces.is_on
    traces.close()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin-of-old"}, ("zipkin-of-old", "pip install")),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"},
            ("grpc or http/protobuf", "smoke"),
        ),
    ],
)
def test_what_cannot_be_is_said_and_costs_no_more(variables, words, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said = []
    assert not begin("test", said.append).is_on
    (why,) = said
    assert all(word in why for word in words)


def test_as_the_page_says():
    """With a receiver elsewhere, and a ratio that takes all."""
    (block,) = (b for b in blocks("docs/traces.md") if b.language == "sh")
    *exports, program = block.commands
    assert program == ["eldr-server"]
    env = dict(word.split("=") for words in exports for word in words[1:])
    with running_receiver() as receiver:
        env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_TRACES_SAMPLER_ARG": "1"}
        with running_daemon(env=env) as daemon, grpc.insecure_channel(daemon.grpc) as channel:
            join(daemon)
            RouterServiceStub(channel).Route(router_pb2.RouteRequest(model=MODEL, request_id="r"))
        (span,) = receiver.spans  # sent before the daemon had ended
    assert span.name == ROUTE


def test_a_service_has_the_name_that_it_is_given():
    with running_receiver() as receiver:
        env = {**receiver.variables, "OTEL_SERVICE_NAME": "router-of-mine"}
        with running_daemon(env=env) as daemon, grpc.insecure_channel(daemon.grpc) as channel:
            join(daemon)
            RouterServiceStub(channel).Route(router_pb2.RouteRequest(model=MODEL, request_id="r"))
        (span,) = receiver.spans  # sent before the daemon had ended
        assert span.service == "router-of-mine"


def test_without_the_packages_the_daemon_serves_and_says_what_to_install(tmp_path):
    program = "import sys; sys.modules['opentelemetry'] = None\n"
    program += "from eldr_service.server import main; main()"
    ports, errors = tmp_path / "ports", tmp_path / "stderr"
    flags = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--state", ":memory:"]
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *flags, "--port-file", str(ports)],
            stderr=stderr,
            env={**os.environ, "OTEL_TRACES_EXPORTER": "otlp"},
        )
    try:
        deadline = time.monotonic() + 60
        while not ports.exists():
            assert process.poll() is None, errors.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.terminate()
        process.wait(20)
    said = errors.read_text()
    assert "no traces" in said
    assert "is not installed: pip install opentelemetry-sdk opentelemetry-exporter-otlp" in said


def test_a_receiver_that_is_away_or_silent_costs_no_request():
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        for port in (9, silent.getsockname()[1]):
            env = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
                "OTEL_BSP_SCHEDULE_DELAY": "10",
                "OTEL_BSP_MAX_QUEUE_SIZE": "16",
                "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8",
            }
            with (
                running_daemon(env=env) as daemon,
                RouterClient(daemon.grpc, timeout=5.0) as client,
            ):
                join(daemon)
                for number in range(200):
                    placement = client.route(MODEL, f"r{number}", timeout=2.0)
                    assert placement.worker_id == "d0"
                    assert not placement.is_fallback
                    client.release(MODEL, f"r{number}", lease_id=placement.lease_id)
                daemon.process.terminate()
                assert daemon.process.wait(15) == 0
