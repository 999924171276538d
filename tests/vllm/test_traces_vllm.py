"""One trace from a caller's header through proxy, engines, shim and daemon, on real vLLM."""

import json
import urllib.request

import pytest
from forked_engines import SPAWN
from otlp_receiver import running_receiver
from traced_proxy import running_proxy

pytestmark = pytest.mark.vllm(engines=2)

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALL = "eldr.v1.RouterService/"


@pytest.fixture(scope="module")
def receiver():
    with running_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def rig(model, tmp_path_factory, receiver):
    from rig import running_apart

    with pytest.MonkeyPatch.context() as patch:
        for name, value in receiver.variables.items():
            patch.setenv(name, value)
        patch.setenv(SPAWN, "1")  # vLLM's exporter starts threads of gRPC before it forks
        folder = tmp_path_factory.mktemp("rig")
        traced = {"otlp-traces-endpoint": receiver.endpoint}  # vLLM's own
        with running_apart(model, folder, {"place": "daemon"}, **traced) as rig:
            yield rig


def test_one_trace_joins_them_all(rig, receiver):
    from rig import MODEL, prompt

    rig.await_workers()
    with running_proxy(receiver.variables, "--router", rig.daemon.target) as url:
        body = {"model": MODEL, "prompt": prompt(70, 600), "max_tokens": 8, "stream": True}
        request = urllib.request.Request(
            url + "/v1/completions",
            json.dumps({**body, "temperature": 0, "ignore_eos": True}).encode(),
            {"Content-Type": "application/json", "traceparent": f"00-{TRACE}-{CALLER}-01"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert answer.read().endswith(b"data: [DONE]\n\n")

    def of_trace(spans):
        return [span for span in spans if span.trace_id == TRACE]

    def is_complete(spans):
        names = {(span.service, span.name) for span in of_trace(spans)}
        return {
            ("eldr-proxy", "POST /v1/completions"),
            ("eldr-proxy", "prefill"),
            ("eldr-proxy", "route"),
            ("eldr-proxy", "decode"),
            ("eldr-vllm", CALL + "StreamSignatures"),
            ("eldr-server", CALL + "StreamSignatures"),
            ("eldr-vllm", CALL + "Route"),
            ("eldr-server", CALL + "Route"),
            ("eldr-vllm", CALL + "Release"),
            ("eldr-server", CALL + "Release"),
        } <= names

    spans = of_trace(receiver.wait_for(is_complete, 30))
    by_id = {span.span_id: span for span in spans}

    def of(service, name):
        return [span for span in spans if (span.service, span.name) == (service, name)]

    def parent(span):
        return by_id[span.parent_id]

    (whole,) = of("eldr-proxy", "POST /v1/completions")
    (prefill,), (route,), (decode,) = (
        of("eldr-proxy", name) for name in ("prefill", "route", "decode")
    )
    assert whole.parent_id == CALLER
    assert {parent(span) is whole for span in (prefill, route, decode)} == {True}
    # The shim's spans follow the prefill; the daemon's follow the shim's, also those of a stream.
    for name in ("StreamSignatures", "Route"):
        for span in of("eldr-vllm", CALL + name):
            assert parent(span) is prefill
    streamed = of("eldr-server", CALL + "StreamSignatures")
    assert len(streamed) == 3  # chunks of 256 tokens
    assert {parent(span).service for span in streamed} == {"eldr-vllm"}
    # The shim places; where that comes too late for the prefill's answer, the proxy asks itself.
    routed = [span for span in of("eldr-server", CALL + "Route") if not is_repeat(span)]
    assert any(parent(span) in of("eldr-vllm", CALL + "Route") for span in routed)
    (placed,) = (
        span
        for span in routed
        if span.attributes.get("eldr.lease_id") == route.attributes["eldr.lease_id"]
    )
    assert parent(placed).service in {"eldr-vllm", "eldr-proxy"}
    assert placed.attributes["eldr.worker_id"] == decode.attributes["eldr.worker_id"]
    assert placed.attributes["eldr.request_id"] == whole.attributes["eldr.request_id"]
    # The decode engine's shim releases, and so does the proxy.
    assert any(parent(span) is decode for span in of("eldr-vllm", CALL + "Release"))
    # vLLM's own spans are of the proxy's, in its own words.
    theirs = [span for span in spans if span.name == "llm_request"]
    assert {parent(span).name for span in theirs} == {"prefill", "decode"}


def is_repeat(span):
    return bool(span.attributes.get("eldr.repeated"))
