from contextlib import asynccontextmanager

import grpc
import pytest
import structlog
from certificates import issue
from eldr.v1 import (
    fleet_pb2,
    fleet_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    router_pb2,
    router_pb2_grpc,
)
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from eldr_service.server.rpc import auth
from eldr_service.server.rpc.auth import TokenInterceptor, Tokens, TokensFileError

ROUTE, WORKER, ADMIN = (f"{role}-token-0123456789" for role in ("route", "worker", "admin"))
FILE = f"""
[[tokens]]
name = "scheduler"
token = "{ROUTE}"
roles = ["route"]
[[tokens]]
name = "engines"
token = "{WORKER}"
roles = ["worker"]
[[tokens]]
name = "operators"
token = "{ADMIN}"
roles = ["admin"]
"""


class Router(router_pb2_grpc.RouterServiceServicer):
    async def Route(self, request, context):
        return router_pb2.RouteResponse()

    async def RouteStream(self, request_iterator, context):
        async for request in request_iterator:
            yield router_pb2.RouteStreamResponse(request_id=request.request_id)


class Fleet(fleet_pb2_grpc.FleetServiceServicer):
    async def RegisterWorker(self, request, context):
        return fleet_pb2.RegisterWorkerResponse()

    async def ReportLoad(self, request, context):
        return fleet_pb2.ReportLoadResponse()

    async def RemoveWorker(self, request, context):
        return fleet_pb2.RemoveWorkerResponse()

    async def WatchWorkers(self, request, context):
        yield fleet_pb2.WatchWorkersResponse()


class Policies(policy_pb2_grpc.PolicyServiceServicer):
    async def ListPolicies(self, request, context):
        return policy_pb2.ListPoliciesResponse()


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens.toml"
    path.write_text(FILE)
    path.chmod(0o600)
    return Tokens(path)


@asynccontextmanager
async def serving(tokens, server_credentials=None, channel_credentials=None):
    server = grpc.aio.server(interceptors=[TokenInterceptor(tokens)])
    router_pb2_grpc.add_RouterServiceServicer_to_server(Router(), server)
    fleet_pb2_grpc.add_FleetServiceServicer_to_server(Fleet(), server)
    policy_pb2_grpc.add_PolicyServiceServicer_to_server(Policies(), server)
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    reflection.enable_server_reflection(["eldr.v1.RouterService"], server)
    if server_credentials:
        port = server.add_secure_port("127.0.0.1:0", server_credentials)
        channel = grpc.aio.secure_channel(f"127.0.0.1:{port}", channel_credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    await server.start()
    try:
        async with channel:
            yield channel
    finally:
        await server.stop(None)


def bearing(token):
    return (("authorization", f"Bearer {token}"),) if token else ()


async def outcome(call) -> grpc.StatusCode:
    """The status that a call of any kind ends with."""
    try:
        if hasattr(call, "read"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def every_call(channel, token):
    metadata = bearing(token)
    router = router_pb2_grpc.RouterServiceStub(channel)
    fleet = fleet_pb2_grpc.FleetServiceStub(channel)
    policy = policy_pb2_grpc.PolicyServiceStub(channel)
    reflect = reflection_pb2_grpc.ServerReflectionStub(channel)
    listing = [reflection_pb2.ServerReflectionRequest(list_services="")]
    message = router_pb2.RouteStreamRequest(request_id="r")
    unknown = channel.unary_unary("/eldr.v1.Nonsense/Method")
    return {
        "route": router.Route(router_pb2.RouteRequest(), metadata=metadata),
        "stream": router.RouteStream([message], metadata=metadata),
        "register": fleet.RegisterWorker(fleet_pb2.RegisterWorkerRequest(), metadata=metadata),
        "report": fleet.ReportLoad(fleet_pb2.ReportLoadRequest(), metadata=metadata),
        "remove": fleet.RemoveWorker(fleet_pb2.RemoveWorkerRequest(), metadata=metadata),
        "watch": fleet.WatchWorkers(fleet_pb2.WatchWorkersRequest(), metadata=metadata),
        "policies": policy.ListPolicies(policy_pb2.ListPoliciesRequest(), metadata=metadata),
        "reflect": reflect.ServerReflectionInfo(listing, metadata=metadata),
        "unknown": unknown(b"", metadata=metadata),
    }


ALLOWED = {
    ROUTE: {"route", "stream", "reflect"},
    WORKER: {"route", "stream", "register", "report", "reflect"},
    ADMIN: {
        *("route", "stream", "register", "report", "remove", "watch", "policies", "reflect"),
    },
}


@pytest.mark.parametrize("token", [ROUTE, WORKER, ADMIN])
async def test_a_role_opens_its_calls_and_no_others(tokens, token):
    async with serving(tokens) as channel:
        for name, call in every_call(channel, token).items():
            if name in ALLOWED[token]:
                assert await outcome(call) is grpc.StatusCode.OK, name
            elif token == ADMIN:
                assert await outcome(call) is grpc.StatusCode.UNIMPLEMENTED, name
            else:
                assert await outcome(call) is grpc.StatusCode.PERMISSION_DENIED, name


@pytest.mark.parametrize("token", [None, "unknown-token-0123456789", ROUTE.upper(), ROUTE[:-1]])
async def test_without_a_known_token_nothing_opens_or_shows(tokens, token):
    async with serving(tokens) as channel:
        for name, call in every_call(channel, token).items():
            assert await outcome(call) is grpc.StatusCode.UNAUTHENTICATED, name


@pytest.mark.parametrize(
    "metadata",
    [
        (("authorization", ADMIN),),
        (("authorization", f"Basic {ADMIN}"),),
        (("authorization", "Bearer "),),
        (("authorization", f"Bearer {ADMIN}"), ("authorization", f"Bearer {ADMIN}")),
        (("authorization-bin", f"Bearer {ADMIN}".encode()),),
    ],
)
async def test_other_ways_to_send_a_token_are_refused(tokens, metadata):
    async with serving(tokens) as channel:
        stub = router_pb2_grpc.RouterServiceStub(channel)
        call = stub.Route(router_pb2.RouteRequest(), metadata=metadata)
        assert await outcome(call) is grpc.StatusCode.UNAUTHENTICATED


async def test_health_needs_no_token(tokens):
    async with serving(tokens) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_without_tokens_everything_is_open():
    async with serving(None) as channel:
        for name, call in every_call(channel, None).items():
            expected = "UNIMPLEMENTED" if name == "unknown" else "OK"
            assert (await outcome(call)).name == expected, name


async def test_a_refusal_comes_before_the_request_is_decoded(tokens):
    async with serving(tokens) as channel:
        route = channel.unary_unary("/eldr.v1.RouterService/Route")
        no_message = b"\xff" * 100
        assert await outcome(route(no_message)) is grpc.StatusCode.UNAUTHENTICATED
        assert await outcome(route(bytes(3 << 20))) is grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_is_refused_whether_it_speaks_or_not(tokens):
    async with serving(tokens) as channel:
        stub = router_pb2_grpc.RouterServiceStub(channel)
        silent = stub.RouteStream()
        chatty = stub.RouteStream([router_pb2.RouteStreamRequest(request_id="r")] * 100)
        assert await outcome(silent) is grpc.StatusCode.UNAUTHENTICATED
        assert await outcome(chatty) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("token", "reason"), [(None, "UNAUTHENTICATED"), (ROUTE, "PERMISSION_DENIED")]
)
async def test_a_refusal_carries_details(tokens, token, reason):
    async with serving(tokens) as channel:
        call = channel.unary_unary("/eldr.v1.Nonsense/Method")(b"", metadata=bearing(token))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
    trailer = dict(refused.value.trailing_metadata())["grpc-status-details-bin"]
    info = ErrorInfo()
    assert Status.FromString(trailer).details[0].Unpack(info)
    assert (info.reason, info.domain) == (reason, "eldr")
    assert "0123456789" not in refused.value.details()


async def test_reload_takes_effect_and_keeps_the_old_when_wrong(tokens, tmp_path):
    fresh = "fresh-token-0123456789"
    path = tmp_path / "tokens.toml"
    async with serving(tokens) as channel:
        stub = router_pb2_grpc.RouterServiceStub(channel)

        async def tries(token):
            call = stub.Route(router_pb2.RouteRequest(), metadata=bearing(token))
            return await outcome(call) is grpc.StatusCode.OK

        path.write_text(FILE.replace(ROUTE, fresh))
        assert await tries(ROUTE)
        tokens.reload()
        assert not await tries(ROUTE)
        assert await tries(fresh)
        path.write_text("[[tokens]]\nname = 'half'")
        with pytest.raises(TokensFileError):
            tokens.reload()
        assert await tries(fresh)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected [[tokens]] tables"),
        ("tokens = 3", "expected [[tokens]] tables"),
        (FILE + "[other]\n", "expected [[tokens]] tables"),
        ("secret-secret-secret", "is not a TOML file"),
        (FILE.replace(WORKER, "secret"), "token 2: token: expected at least 16 characters"),
        (FILE.replace(WORKER, "secret " * 4), "token 2: token: expected printable ASCII"),
        (FILE.replace('["worker"]', '["worke"]'), "found 'worke'; did you mean worker?"),
        (FILE.replace('["worker"]', "[[1]]"), "roles: expected admin, route, worker, found [1]"),
        (FILE.replace('["worker"]', "[]"), "roles: expected a list"),
        (FILE.replace('name = "engines"\n', ""), "token 2: expected the keys"),
        (FILE.replace('"engines"', '""'), "token 2: name: expected text"),
        (FILE.replace(WORKER, ROUTE), "token 2: the same as that of scheduler"),
    ],
)
def test_a_wrong_file_is_refused_without_showing_tokens(tmp_path, text, told):
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(TokensFileError) as refused:
        Tokens(path)
    assert told in str(refused.value)
    assert str(path) in str(refused.value)
    assert not any(secret in str(refused.value) for secret in ("secret", ROUTE, WORKER))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(TokensFileError, match="No such file"):
        Tokens(tmp_path / "missing.toml")


def test_warns_of_a_file_that_anyone_can_read(tmp_path, monkeypatch):
    # Another test may have had the module's logger bound to its own configuration.
    monkeypatch.setattr(auth, "log", structlog.get_logger())
    path = tmp_path / "tokens.toml"
    path.write_text(FILE)
    path.chmod(0o644)
    with capture_logs() as logs:
        Tokens(path)
    assert [entry["log_level"] for entry in logs] == ["warning"]
    path.chmod(0o640)
    with capture_logs() as logs:
        Tokens(path)
    assert not logs


async def test_tokens_over_tls(tokens):
    authority = issue("authority")
    server = issue("server", authority)
    served = grpc.ssl_server_credentials([(server.key, server.chain)])
    trusting = grpc.ssl_channel_credentials(authority.chain)
    with_token = grpc.composite_channel_credentials(
        trusting, grpc.access_token_call_credentials(ROUTE)
    )
    async with serving(tokens, served, with_token) as channel:
        stub = router_pb2_grpc.RouterServiceStub(channel)
        await stub.Route(router_pb2.RouteRequest())
    async with serving(tokens, served, trusting) as channel:
        stub = router_pb2_grpc.RouterServiceStub(channel)
        call = stub.Route(router_pb2.RouteRequest())
        assert await outcome(call) is grpc.StatusCode.UNAUTHENTICATED


async def test_mutual_tls_knows_its_own_from_strangers():
    authority, elsewhere = issue("authority"), issue("elsewhere")
    server, client = issue("server", authority), issue("client", authority)
    stranger = issue("client", elsewhere)
    served = grpc.ssl_server_credentials(
        [(server.key, server.chain)], authority.chain, require_client_auth=True
    )
    for presented, code in (
        (client, grpc.StatusCode.OK),
        (stranger, grpc.StatusCode.UNAVAILABLE),
        (None, grpc.StatusCode.UNAVAILABLE),
    ):
        pair = (presented.key, presented.chain) if presented else (None, None)
        trusting = grpc.ssl_channel_credentials(authority.chain, *pair)
        async with serving(None, served, trusting) as channel:
            call = router_pb2_grpc.RouterServiceStub(channel).Route(router_pb2.RouteRequest())
            assert await outcome(call) is code
