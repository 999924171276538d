"""The endpoints beside completions and chat, and what is no endpoint."""

import asyncio
import json
import time

import pytest
from scripted_engine import MODEL, Rig, eventually, running_rig, text_of
from test_proxy_daemon import booked, register, routed_rig, unregister

NEWER = {
    "/v1/responses": {"input": "Hello", "max_output_tokens": 5},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5},
}


def prompt(path: str):
    return NEWER[path].get("input", NEWER[path].get("messages"))


def text_in(path: str, body: dict) -> str:
    if path == "/v1/messages":
        return body["content"][0]["text"]
    return body["output"][0]["content"][0]["text"]


def events_in(stream: str) -> list[tuple[str, dict]]:
    *events, rest = stream.split("\n\n")
    assert rest == ""
    pairs = [event.split("\ndata: ") for event in events]
    return [(name.removeprefix("event: "), json.loads(data)) for name, data in pairs]


@pytest.mark.parametrize("path", NEWER)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_newer_endpoints_go_the_same_way(shared_daemon, path, stream):
    async with routed_rig(shared_daemon, static=True, decodes=1) as rig:
        answer, body = await rig.post(path, **NEWER[path], stream=stream)
        assert answer.status == 200
        text = "".join(text_of(prompt(path), 5))
        if stream:
            events = events_in(body)
            deltas = [event["delta"] for _, event in events if "delta" in event]
            assert "".join(delta["text"] for delta in deltas) == text
            assert events[0][0] in ("response.created", "message_start")
            assert events[-1][0] in ("response.completed", "message_stop")
        else:
            assert text_in(path, body) == text
        assert "remote_request_id" not in json.dumps(body)
        (prefill,), (decode,) = rig.prefill[0].bodies, rig.decode[0].bodies
        assert prefill["kv_transfer_params"]["do_remote_decode"]
        assert decode["kv_transfer_params"]["remote_request_id"]
        assert decode["kv_transfer_params"]["eldr"]["lease_id"]
        limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
        assert (prefill[limit], decode[limit]) == (1, 5)
        assert "stream_options" not in decode
        assert not rig.pinned
        await eventually(lambda: booked(shared_daemon) == 0)


@pytest.mark.parametrize("path", NEWER)
async def test_a_newer_stream_is_begun_once(path):
    """What comes before the first token is held back until an engine has one."""
    async with running_rig() as rig:
        rig.decode[0].fault = "error-event"
        _, stream = await rig.post(path, **NEWER[path], stream=True)
        names = [name for name, _ in events_in(stream)]
        assert names.count(names[0]) == 1
        assert "error" not in names
        assert len(rig.prefill[0].bodies) == 2


@pytest.mark.parametrize("path", NEWER)
async def test_a_newer_stream_that_breaks_off(path):
    async with running_rig(decodes=1) as rig:
        rig.decode[0].fault = "break"
        answer, stream = await rig.post(path, **NEWER[path], stream=True)
        assert answer.status == 200
        name, event = events_in(stream)[-1]
        assert (name, event["type"]) == ("error", "error")
        said = event["error"] if path == "/v1/messages" else event
        assert "failed after its first token" in said["message"]


async def test_errors_have_the_shape_of_their_endpoint():
    async with running_rig() as rig:
        for engine in rig.decode:
            engine.fault = 500
        answer, body = await rig.post("/v1/messages", **NEWER["/v1/messages"])
        assert answer.status == 502
        assert (body["type"], body["error"]["type"]) == ("error", "server_error")
        answer, body = await rig.post("/v1/responses", **NEWER["/v1/responses"])
        assert (answer.status, body["error"]["code"]) == (502, 502)


@pytest.mark.parametrize("name", ["previous_response_id", "background"])
async def test_what_one_engine_keeps_is_refused(name):
    async with running_rig() as rig:
        answer, body = await rig.post("/v1/responses", input="Hello", **{name: True})
        assert answer.status == 400
        assert name in body["error"]["message"]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/responses/resp_1", "/"])
async def test_what_is_not_served(method, path):
    async with running_rig() as rig:
        async with rig.session.request(method, rig.url + path, json={}) as answer:
            body = await answer.json()
        assert (answer.status, body["error"]["type"]) == (404, "not_found_error")
        assert path in body["error"]["message"]
        assert "/v1/chat/completions" in body["error"]["message"]


async def test_a_method_that_is_not_served():
    async with running_rig() as rig, rig.session.get(rig.url + "/v1/completions") as answer:
        body = await answer.json()
        assert (answer.status, body["error"]["code"]) == (405, 405)
        assert body["error"]["message"] == "/v1/completions takes POST, not GET"


async def test_tokens_are_counted_by_any_engine(shared_daemon):
    async with routed_rig(shared_daemon, static=True) as rig:
        await rig.stop(rig.prefill[0])
        answer, body = await rig.post("/tokenize", prompt="abc")
        assert (answer.status, body["tokens"]) == (200, [97, 98, 99])
        assert booked(shared_daemon) == 0


async def models(rig: Rig) -> list[str]:
    async with rig.session.get(rig.url + "/v1/models") as answer:
        assert answer.status == 200
        return sorted(model["id"] for model in (await answer.json())["data"])


async def test_models_of_engines_of_which_one_is_down():
    async with running_rig(prefills=2, decodes=2) as rig:
        for engine in (rig.prefill[1], rig.decode[1]):
            engine.model = "another"
        await rig.stop(rig.prefill[0])
        assert await models(rig) == ["another", MODEL]
        await rig.stop(rig.decode[0])
        assert await models(rig) == ["another"]
        answer, _ = await rig.post(model="another")
        assert answer.status in (
            200,
            404,
        )  # engines of the configuration may each serve what they like


async def test_several_models_of_which_one_is_down(shared_daemon):
    """Each is served by its own engines, and those that are left; else it is refused in words."""
    async with (
        running_rig(static=False, router=shared_daemon.grpc) as one,
        running_rig(static=False) as other,
    ):
        for engine in (*other.prefill, *other.decode):
            engine.model = "another"
        register(shared_daemon, one)
        register(shared_daemon, other, model="another")
        await eventually_serves(one, [MODEL, "another"])
        await other.stop(other.decode[0])
        await eventually_serves(one, [MODEL, "another"])
        await other.stop(other.decode[1])
        assert (await one.post())[0].status == 200
        assert (await one.post(model="another"))[0].status == 502
        assert await models(one) == ["another", MODEL]  # its prefill engine says so
        answer, body = await one.post(model="a third")
        assert answer.status == 503
        assert "'a third'" in body["error"]["message"]
        unregister(shared_daemon, one)
        unregister(shared_daemon, other, model="another")


async def eventually_serves(rig: Rig, names: list[str]) -> None:
    deadline = time.monotonic() + 5
    for name in names:
        while (await rig.post(model=name))[0].status == 503:  # it has not heard of it yet
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert (await rig.post(model=name))[0].status == 200


NAME = "caller-7"


@pytest.mark.parametrize("given", [{"X-Request-Id": NAME}, {}, {"X-Request-Id": "x" * 300}])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_requests_id_is_given_back_and_passed_on(given, stream):
    async with running_rig(decodes=1) as rig:
        answer, _ = await rig.post(headers=given, stream=stream)
        name = answer.headers["X-Request-Id"]
        assert (name == NAME) == (given == {"X-Request-Id": NAME})
        assert len(name) <= 256
        for engine in (*rig.prefill, *rig.decode):
            assert engine.headers[0]["X-Request-Id"] == name
        # Callers may repeat an id; what the daemon knows is the proxy's own.
        own = rig.decode[0].bodies[0]["kv_transfer_params"]["eldr"]["request_id"]
        await rig.post(headers=given)
        assert rig.decode[0].bodies[1]["kv_transfer_params"]["eldr"]["request_id"] != own
        answer, _ = await rig.post("/v1/nothing", headers=given)
        assert (answer.headers["X-Request-Id"] == NAME) == (given == {"X-Request-Id": NAME})


async def test_traces_and_tenants_are_passed_on():
    passed = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "a=1",
        "baggage": "k=v",
        "X-Tenant-Id": "t",
        "x-api-key": "key",
    }
    async with running_rig(decodes=1) as rig:
        await rig.post(headers={**passed, "Cookie": "mine"})
        for engine in (*rig.prefill, *rig.decode):
            assert passed.items() <= dict(engine.headers[0]).items()
            assert "Cookie" not in engine.headers[0]
    async with running_rig(decodes=1, forward_headers=("X-Own",)) as rig:
        await rig.post(headers={**passed, "X-Own": "1"})
        assert rig.decode[0].headers[0]["X-Own"] == "1"
        assert "traceparent" not in rig.decode[0].headers[0]
