"""Tokens and certificates keep strangers out, who learn nothing of what there is."""

import signal
import subprocess

import grpc
import pytest
from certificates import issue
from daemon import command, running_daemon
from eldr.v1 import fleet_pb2, router_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from wire import METHODS, Client, eventually, path_of, refusal_of

ROLES = ("route", "worker", "admin")
TOKENS = {role: f"{role}-token-0123456789" for role in ROLES}
OF_WORKERS = {"RegisterWorker", "ReportLoad"}


def may_call(role: str, method) -> bool:
    """The matrix of the contract."""
    if role == "admin" or method.containing_service.name == "RouterService":
        return True
    return role == "worker" and method.name in OF_WORKERS


def file_of(tokens: dict[str, str]) -> str:
    entries = "[[tokens]]\nname = '{0}'\ntoken = '{1}'\nroles = ['{0}']\n"
    return "".join(entries.format(*entry) for entry in tokens.items())


@pytest.fixture(scope="module")
def authority():
    return issue("authority")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, authority):
    """Holds the server's certificate and key, the authority's, and the tokens."""
    folder = tmp_path_factory.mktemp("credentials")
    issue("server", authority).write(folder, "server")
    authority.write(folder, "authority")
    (folder / "tokens.toml").write_text(file_of(TOKENS))
    (folder / "tokens.toml").chmod(0o600)
    return folder


def tls(folder):
    return "--tls-cert", str(folder / "server.crt"), "--tls-key", str(folder / "server.key")


@pytest.fixture(scope="module")
def guarded(folder):
    """A daemon with TLS and tokens that knows the model "known" with its worker "w0"."""
    with running_daemon(*tls(folder), "--tokens", str(folder / "tokens.toml")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def caller(guarded, authority):
    """Makes a client that bears a token, or none."""
    opened = []

    def caller(token=None):
        credentials = grpc.ssl_channel_credentials(authority.chain)
        if token:
            credentials = grpc.composite_channel_credentials(
                credentials, grpc.access_token_call_credentials(token)
            )
        opened.append(Client(guarded.grpc, credentials=credentials))
        return opened[-1]

    caller(TOKENS["worker"]).register("known", "w0")
    yield caller
    for client in opened:
        client.channel.close()


def outcome(client, method, request=b""):
    """Code, message and details of the answer; those of a stream's end."""
    try:
        answers = client.call(method, request)
        if method.server_streaming:
            next(answers)
            answers.cancel()
    except grpc.RpcError as error:
        return refusal_of(error)
    return None


@pytest.mark.parametrize("token", [None, "unknown-token-0123456789", TOKENS["admin"].upper()])
def test_strangers_are_told_nothing(caller, token):
    stranger = caller(token)
    told = set()
    for method in METHODS:
        for model in ("known", "unknown"):
            request = fleet_pb2.DrainWorkerRequest(model=model, worker_id="w0")  # fields 1, 2
            told.add(outcome(stranger, method, request.SerializeToString()))
        told.add(outcome(stranger, method, b"\xff" * 100))
    assert len(told) == 1
    (refusal,) = told
    assert (refusal.code, refusal.reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
    (worker,) = caller(TOKENS["admin"]).workers().values()
    assert worker.state == fleet_pb2.WORKER_STATE_READY


@pytest.mark.parametrize("method", METHODS, ids=path_of)
@pytest.mark.parametrize("role", ROLES)
def test_each_role_opens_its_methods_and_no_others(caller, role, method):
    client = caller(TOKENS[role])
    refusal = outcome(client, method)  # an empty message, which none but a listing takes
    if may_call(role, method):
        assert refusal is None or refusal.code == "INVALID_ARGUMENT"
    else:
        assert (refusal.code, refusal.reason) == ("PERMISSION_DENIED", "PERMISSION_DENIED")
        known = fleet_pb2.DrainWorkerRequest(model="known", worker_id="w0").SerializeToString()
        assert outcome(client, method, known) == refusal


def test_health_needs_no_token_and_reflection_any(caller):
    check = health_pb2.HealthCheckRequest(service="eldr.v1.RouterService")
    assert caller().health.Check(check).status == health_pb2.HealthCheckResponse.SERVING
    known = ProtoReflectionDescriptorDatabase(caller(TOKENS["route"]).channel)
    assert "eldr.v1.RouterService" in known.get_services()
    with pytest.raises(grpc.RpcError) as refused:
        ProtoReflectionDescriptorDatabase(caller().channel).get_services()
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_plain_text_finds_no_way_in(guarded):
    with Client(guarded.grpc) as client, pytest.raises(grpc.RpcError) as refused:
        client.health.Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_tokens_are_read_again_at_sighup(caller, folder, guarded):
    list_all = next(method for method in METHODS if method.name == "ListWorkers")
    fresh = "fresh-token-0123456789"
    before, after = caller(TOKENS["admin"]), caller(fresh)
    (folder / "tokens.toml").write_text(file_of(TOKENS | {"admin": fresh}))
    assert outcome(before, list_all) is None
    guarded.process.send_signal(signal.SIGHUP)
    eventually(lambda: outcome(after, list_all) is None)
    assert outcome(before, list_all).code == "UNAUTHENTICATED"
    (folder / "tokens.toml").write_text("nonsense")
    guarded.process.send_signal(signal.SIGHUP)
    eventually(lambda: b"not reloaded" in guarded.stderr_path.read_bytes())
    assert outcome(after, list_all) is None
    assert not any(token in guarded.said for token in (*TOKENS.values(), fresh))
    (folder / "tokens.toml").write_text(file_of(TOKENS))
    guarded.process.send_signal(signal.SIGHUP)
    eventually(lambda: outcome(before, list_all) is None)


@pytest.fixture(scope="module")
def mutual(folder):
    """A daemon that lets in whom the authority has signed."""
    with running_daemon(*tls(folder), "--tls-client-ca", str(folder / "authority.crt")) as daemon:
        yield daemon


@pytest.mark.parametrize("method", METHODS, ids=path_of)
def test_mutual_tls_asks_for_a_certificate(mutual, authority, method):
    ours, theirs = issue("client", authority), issue("client", issue("elsewhere"))
    for presented in (ours, theirs, None):
        pair = (presented.key, presented.chain) if presented else (None, None)
        credentials = grpc.ssl_channel_credentials(authority.chain, *pair)
        with Client(mutual.grpc, credentials=credentials) as client:
            refusal = outcome(client, method)
            if presented is ours:
                assert refusal is None or refusal.code == "INVALID_ARGUMENT"
            else:
                assert refusal.code == "UNAVAILABLE"


def test_strangers_are_not_listened_to_without_credentials():
    """What else counts as credentials is in test_config.py."""
    arguments = command("--listen", "0.0.0.0:0", "--state", ":memory:")
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "without credentials anyone who reaches it may call" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("broken", ["server.key", "authority.crt"])
def test_a_broken_certificate_ends_the_start(folder, tmp_path, broken):
    for name in ("server.crt", "server.key", "authority.crt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / broken).write_text("no PEM")
    flags = (*tls(tmp_path), "--tls-client-ca", str(tmp_path / "authority.crt"))
    given = ("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--state", ":memory:")
    ended = subprocess.run(command(*flags, *given), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "eldr-server: " in ended.stderr


def test_insecure_said_aloud_is_obeyed():
    with running_daemon("--listen", "0.0.0.0:0", "--insecure") as daemon:
        port = daemon.grpc.rpartition(":")[2]
        with Client(f"127.0.0.1:{port}") as client, pytest.raises(grpc.RpcError) as refused:
            client.router.Route(router_pb2.RouteRequest(model="m", request_id="r"))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "has no worker" in refused.value.details()
