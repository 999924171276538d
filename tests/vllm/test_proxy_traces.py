"""The spans of `eldr-proxy` as a process, with engines that are scripted and the real daemon."""

import asyncio
import os
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession
from daemon import running_daemon
from otlp_receiver import running_receiver
from scripted_engine import MODEL, running_rig
from test_proxy_daemon import register
from traced_proxy import running_proxy

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=x"}
SECRET = "only-for-the-model"
BODY = {"model": MODEL, "prompt": SECRET, "max_tokens": 4}


@pytest.fixture
def receiver():
    with running_receiver() as receiver:
        yield receiver


@asynccontextmanager
async def traced(receiver, daemon=None, **variables):
    """A rig, and a proxy in a process that is traced."""
    env = {**receiver.variables, **variables}
    async with running_rig() as rig, ClientSession() as session:
        where = ["--router", "none"]
        if daemon is not None:
            register(daemon, rig)
            where = ["--router", daemon.grpc]
        else:
            where += ["--prefill", rig.prefill[0].url, "--decode", *(e.url for e in rig.decode)]
        with running_proxy(env, *where) as url:
            yield rig, session, url


async def ask(session, url, status=200, **more):
    async with session.post(
        url + "/v1/completions", json={**BODY, **more}, headers={**HEADERS, "Authorization": SECRET}
    ) as answer:
        assert answer.status == status, await answer.text()
        return await answer.text()


async def spans_of(receiver, *expected):
    """The caller's trace, by name, once it has these; no span says what only the model may see."""

    def is_there(spans):
        names = [span.name for span in spans if span.trace_id == TRACE]
        return all(names.count(name) >= expected.count(name) for name in expected)

    spans = await asyncio.to_thread(receiver.wait_for, is_there)
    assert SECRET not in repr(spans)
    found = {}
    for span in spans:
        if span.trace_id == TRACE:
            found.setdefault((span.service, span.name), []).append(span)
    return found


async def test_one_trace_joins_caller_proxy_daemon_and_engines(receiver):
    with running_daemon(env=receiver.variables) as daemon:
        async with traced(receiver, daemon) as (rig, session, url):
            await ask(session, url, stream=True)
            found = await spans_of(
                receiver, "POST /v1/completions", "eldr.v1.RouterService/Release"
            )
    ((whole,), (prefill,), (route,), (decode,)) = (
        found["eldr-proxy", name] for name in ("POST /v1/completions", "prefill", "route", "decode")
    )
    (placed,) = found["eldr-server", "eldr.v1.RouterService/Route"]
    (released,) = found["eldr-server", "eldr.v1.RouterService/Release"]
    assert whole.parent_id == CALLER
    assert {s.parent_id for s in (prefill, route, decode, released)} == {whole.span_id}
    assert placed.parent_id == route.span_id
    assert (whole.kind, prefill.kind, decode.kind) == ("server", "client", "client")
    assert whole.attributes["http.request.method"] == "POST"
    assert whole.attributes["http.route"] == "/v1/completions"
    assert whole.attributes["http.response.status_code"] == 200
    assert whole.attributes["gen_ai.operation.name"] == "text_completion"
    assert whole.attributes["gen_ai.request.model"] == MODEL
    assert 0 < whole.attributes["gen_ai.response.time_to_first_chunk"] <= whole.seconds
    assert "eldr.first_token" in whole.events
    assert "eldr.first_token" in decode.events
    assert decode.attributes["gen_ai.usage.output_tokens"] == 4
    assert prefill.attributes["server.port"] == int(rig.prefill[0].url.rpartition(":")[2])
    for span in (route, placed):
        assert span.attributes["eldr.worker_id"] == decode.attributes["eldr.worker_id"]
        assert span.attributes["eldr.reason"] == "LEAST_LOADED_NO_SIGNATURE"
        assert span.attributes["eldr.lease_id"]
        assert span.attributes["eldr.policy"] == "locality-band"
        assert span.attributes["eldr.request_id"] == whole.attributes["eldr.request_id"]
    # The engines hear of the proxy's spans, the shim in the transfer parameters.
    decoder = next(engine for engine in rig.decode if engine.bodies)
    for engine, span in ((rig.prefill[0], prefill), (decoder, decode)):
        parent = f"00-{TRACE}-{span.span_id}-01"
        assert engine.headers[0].getall("traceparent") == [parent]
        assert engine.headers[0]["tracestate"] == "vendor=x"
        assert engine.bodies[0]["kv_transfer_params"]["eldr"]["traceparent"] == parent


async def test_failures_are_seen_where_they_happened(receiver):
    async with traced(receiver) as (rig, session, url):
        for engine in rig.decode:
            engine.fault, engine.faults_left = 500, 1
        await ask(session, url)
        found = await spans_of(receiver, "POST /v1/completions")
        rig.prefill[0].fault = 400
        await ask(session, url, status=400)
        both = await spans_of(receiver, *["POST /v1/completions"] * 2)
    failed, *_ = found["eldr-proxy", "decode"]
    assert failed.is_error
    assert failed.attributes["error.type"] == "EngineErred"
    (whole,) = found["eldr-proxy", "POST /v1/completions"]
    assert not whole.is_error
    assert found["eldr-proxy", "route"][0].attributes["eldr.reason"] == "CLIENT_FALLBACK"
    refused = both["eldr-proxy", "POST /v1/completions"][1]
    assert refused.attributes["error.type"] == "400"
    assert not refused.is_error


async def test_who_is_not_sampled_is_not_sampled_anywhere(receiver):
    async with traced(receiver, OTEL_TRACES_SAMPLER="parentbased_always_off") as (
        rig,
        session,
        url,
    ):
        async with session.post(url + "/v1/completions", json=BODY) as answer:
            assert answer.status == 200
        (parent,) = {h["traceparent"] for h in rig.prefill[0].headers}
    assert not int(parent.rpartition("-")[2], 16) & 1
    assert receiver.spans == []


async def test_untraced_it_passes_the_callers_context_on(receiver):
    async with traced(receiver, OTEL_SDK_DISABLED="true") as (rig, session, url):
        await ask(session, url)
    assert rig.prefill[0].headers[0].getall("traceparent") == [HEADERS["traceparent"]]
    assert "traceparent" not in rig.prefill[0].bodies[0]["kv_transfer_params"]["eldr"]
    assert receiver.spans == []


def test_without_the_packages_it_serves_and_says_what_to_install():
    program = f"import sys; sys.modules['opentelemetry'] = None; sys.path[:0] = {sys.path}\n"
    program += "from eldr_vllm.proxy import main; main()"
    flags = ["--listen", "127.0.0.1:0", "--router", "none"]
    flags += ["--prefill", "http://127.0.0.1:9", "--decode", "http://127.0.0.1:9"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *flags],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OTEL_TRACES_EXPORTER": "otlp"},
    )
    try:
        line = process.stderr.readline()
    finally:
        process.terminate()
        process.wait(20)
    assert "WARNING" in line
    assert "is not installed: pip install opentelemetry-sdk opentelemetry-exporter-otlp" in line
