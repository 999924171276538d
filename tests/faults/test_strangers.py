"""Who may not call is served by no method that the daemon itself says it has, and learns nothing.

The methods come from the daemon's reflection, so a new one is here by itself. What each role may
call is in tests/server/test_security.py, wrong signed tokens are in test_signed_tokens.py.
"""

import signal
import time

import grpc
import pytest
from daemon import running_daemon
from eldr.v1 import partition_pb2, policy_pb2
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from issuer import AUDIENCE, NAME, SigningKey, key_set
from mutations import seeds_of
from wire import METHODS, Client, eventually, path_of, refusal_of

ADMIN, REVOKED = "admin-token-0123456789", "revoked-token-0123456789"
OPEN = "grpc.health.v1.Health"
ANY_TOKEN = "grpc.reflection.v1alpha.ServerReflection"
KEYS = [SigningKey("ES256", kid) for kid in ("now", "before", "now")]  # the last is another's
NOW, BEFORE, FOREIGN = KEYS
ROLES = {"roles": ["admin"]}


def file_of(**tokens: str) -> str:
    entry = "[[tokens]]\nname = '{0}'\ntoken = '{1}'\nroles = ['admin']\n"
    return "".join(entry.format(*token) for token in tokens.items())


def bearing(token: str | None):
    return (("authorization", f"Bearer {token}"),) if token else ()


class Guarded:
    """A daemon whose tokens and keys have been rotated since it served some of them."""

    def __init__(self, daemon, client: Client) -> None:
        self.daemon, self.client = daemon, client
        database = ProtoReflectionDescriptorDatabase(
            grpc.intercept_channel(client.channel, _Bearer(ADMIN))
        )
        pool = descriptor_pool.DescriptorPool(database)
        services = [pool.FindServiceByName(name) for name in database.get_services()]
        self.methods = [method for service in services for method in service.methods]

    def told(self, method, request: bytes, token: str | None):
        """What the caller learns: a refusal, or what was served."""
        kind = f"{'stream' if method.client_streaming else 'unary'}_" + (
            "stream" if method.server_streaming else "unary"
        )
        call = getattr(self.client.channel, kind)(path_of(method))
        sent = iter([request]) if method.client_streaming else request
        try:
            answer = call(sent, timeout=30, metadata=bearing(token))
            return next(answer) if method.server_streaming else answer
        except grpc.RpcError as error:
            return refusal_of(error), tuple(k for k, _ in error.initial_metadata() or ())
        except StopIteration:
            return b""

    def state(self):
        """All that a stranger could have changed."""
        metadata = bearing(ADMIN)
        listed = self.client.fleet.ListWorkers(seeds["ListWorkers"], metadata=metadata).workers
        workers = [(w.worker_id, w.state, w.incarnation, w.booked_sequences) for w in listed]
        partitions = self.client.partition.ListPartitions(
            partition_pb2.ListPartitionsRequest(), metadata=metadata
        )
        policies = self.client.policy.ListPolicies(
            policy_pb2.ListPoliciesRequest(), metadata=metadata
        )
        return workers, list(partitions.partitions), list(policies.active)


class _Bearer(grpc.StreamStreamClientInterceptor):
    def __init__(self, token: str) -> None:
        self._metadata = bearing(token)

    def intercept_stream_stream(self, continuation, details, requests):
        return continuation(details._replace(metadata=self._metadata), requests)


seeds = {method.name: seeds_of(method, b"partition")[0] for method in METHODS}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("credentials")
    tokens, keys = folder / "tokens.toml", folder / "keys.json"
    tokens.write_text(file_of(admin=ADMIN, revoked=REVOKED))
    tokens.chmod(0o600)
    keys.write_text(key_set(BEFORE))
    issuer = ("--jwks", str(keys), "--jwt-issuer", NAME, "--jwt-audience", AUDIENCE)
    with running_daemon("--tokens", str(tokens), *issuer) as daemon, Client(daemon.grpc) as client:
        register, listing = seeds["RegisterWorker"], seeds["ListWorkers"]

        def passes(token: str) -> bool:
            try:
                client.fleet.ListWorkers(listing, metadata=bearing(token))
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.UNAUTHENTICATED  # noqa: PT017
                return False
            return True

        client.fleet.RegisterWorker(register, metadata=bearing(ADMIN))
        replayed = BEFORE.sign(**ROLES)
        assert passes(REVOKED)
        assert passes(replayed)
        tokens.write_text(file_of(admin=ADMIN))
        keys.write_text(key_set(NOW))
        daemon.process.send_signal(signal.SIGHUP)
        eventually(lambda: not passes(REVOKED) and not passes(replayed))
        guarded = Guarded(daemon, client)
        guarded.strangers = {
            "no token": None,
            "an unknown token": "unknown-token-0123456789",
            "a revoked token": REVOKED,
            "a token of a key that was rotated": replayed,
            "an expired token": NOW.sign(exp=int(time.time()) - 3_600, **ROLES),
            "a foreign key": FOREIGN.sign(**ROLES),
            "a foreign issuer": NOW.sign(iss="https://else.test", **ROLES),
            "a token for another": NOW.sign(aud="else", **ROLES),
            "no role": NOW.sign(roles=[]),
        }
        yield guarded


def requests_to(method) -> list[bytes]:
    """One that would be served, one that would not be found, and garbage."""
    kind = message_factory.GetMessageClass(method.input_type)
    valid = seeds.get(method.name, kind()).SerializeToString()
    return [valid, valid.replace(b"\x01m", b"\x01?"), b"", b"\xff" * 60]


def test_the_daemon_has_the_methods_of_the_contract_and_two_more_services(guarded):
    ours = {path_of(method) for method in guarded.methods if "grpc." not in path_of(method)}
    assert ours == {path_of(method) for method in METHODS}
    rest = {m.containing_service.full_name for m in guarded.methods if path_of(m) not in ours}
    assert rest == {OPEN, ANY_TOKEN}


def test_no_method_serves_a_stranger_or_tells_it_anything(guarded):
    before, told = guarded.state(), {}
    for method in guarded.methods:
        if method.containing_service.full_name == OPEN:
            continue
        for stranger, token in guarded.strangers.items():
            for request in requests_to(method):
                told.setdefault(stranger, set()).add(guarded.told(method, request, token))
    for stranger, answers in told.items():
        assert len(answers) == 1, f"{stranger} can tell methods or models apart: {answers}"
        ((refusal, _),) = answers
        expected = "PERMISSION_DENIED" if stranger == "no role" else "UNAUTHENTICATED"
        assert refusal.code == expected, stranger
    assert guarded.state() == before


def test_an_unknown_method_looks_like_any_other(guarded):
    for stranger, token in guarded.strangers.items():
        refusals = set()
        for path in ("/eldr.v1.RouterService/Route", "/eldr.v1.RouterService/Nothing", "/a/b"):
            with pytest.raises(grpc.RpcError) as refused:
                guarded.client.channel.unary_unary(path)(b"", metadata=bearing(token), timeout=30)
            refusals.add(refusal_of(refused.value))
        assert len(refusals) == 1, stranger


@pytest.mark.parametrize("role", ["route", "worker"])
def test_a_role_that_is_not_for_a_method_changes_nothing_by_it(guarded, role):
    token, before, told = NOW.sign(roles=[role]), guarded.state(), set()
    for method in guarded.methods:
        service = method.containing_service.name
        of_workers = role == "worker" and method.name in ("RegisterWorker", "ReportLoad")
        if service in ("RouterService", "ServerReflection", "Health") or of_workers:
            continue
        told |= {guarded.told(method, request, token) for request in requests_to(method)}
    ((refusal, _),) = told
    assert refusal.code == "PERMISSION_DENIED"
    assert guarded.state() == before
