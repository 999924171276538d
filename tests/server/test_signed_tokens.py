"""Bearer tokens that an issuer has signed (JWTs) open what they say, and nothing else does."""

import subprocess
import time

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from daemon import command, running_daemon
from eldr.v1 import fleet_pb2
from issuer import AUDIENCE, NAME, KeyServer, SigningKey, key_set, signed_by_secret, unsigned
from wire import METHODS, Client, eventually, path_of, refusal_of

LEEWAY = 0.5
KEYS = [SigningKey(algorithm, algorithm.lower()) for algorithm in ("RS256", "ES256", "EdDSA")]
RSA, EC, ED = KEYS


def flags(source, *more):
    return (
        *("--jwks", str(source), "--jwt-issuer", NAME, "--jwt-audience", AUDIENCE),
        *("--jwt-leeway", str(LEEWAY), "--log-format", "json", *more),
    )


def code(daemon, token, timeout=10.0):
    """How ListPolicies, which is for admins, ends: code and message, or None."""
    with Client(daemon.grpc) as client:
        method = next(method for method in METHODS if method.name == "ListPolicies")
        metadata = (("authorization", f"Bearer {token}"),)
        try:
            client.call(method, b"", metadata=metadata, timeout=timeout)
        except grpc.RpcError as error:
            refusal = refusal_of(error)
            return refusal.code, refusal.message
    return None


UNKNOWN = ("UNAUTHENTICATED", "unknown token")
EXPIRED = ("UNAUTHENTICATED", "the token has expired")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    path = tmp_path_factory.mktemp("issuer") / "keys.json"
    path.write_text(key_set(*KEYS))
    with running_daemon(*flags(path)) as daemon:
        yield daemon


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.algorithm)
def test_a_token_by_each_algorithm_opens_what_its_roles_allow(daemon, key):
    for roles in (["admin"], "other admin", ["admin", "unknown"]):
        assert code(daemon, key.sign(roles=roles)) is None
    assert code(daemon, key.sign({"kid": None}, roles=["admin"])) is None  # the only such key
    for roles in (["route"], "worker", [], None, ["Admin"]):
        refusal = code(daemon, key.sign(roles=roles))
        assert refusal == ("PERMISSION_DENIED", "token somebody lacks the role for this call")


ADMIN = {"roles": ["admin"]}
WRONG = {
    "another key by the same id": lambda: SigningKey("ES256", "es256").sign(**ADMIN),
    "an id that there is not": lambda: SigningKey("ES256", "else").sign(**ADMIN),
    "another key without an id": lambda: SigningKey("RS256", "x").sign({"kid": None}, **ADMIN),
    "another issuer": lambda: EC.sign(iss="https://else.test", **ADMIN),
    "another audience": lambda: EC.sign(aud="else", **ADMIN),
    "no audience": lambda: EC.sign(aud=None, **ADMIN),
    "no issuer": lambda: EC.sign(iss=None, **ADMIN),
    "no end": lambda: EC.sign(exp=None, **ADMIN),
    "an end that is no number": lambda: EC.sign(exp="never", **ADMIN),
    "not yet": lambda: EC.sign(nbf=time.time() + 60, **ADMIN),
    "crit": lambda: EC.sign({"crit": ["b64"], "b64": False}, **ADMIN),
    "roles that are none": lambda: EC.sign(roles={"admin": True}),
    "models that are none": lambda: EC.sign(models="qwen", **ADMIN),
    "alg none": lambda: unsigned({"alg": "none", "kid": "rs256"}, **ADMIN),
    "alg None": lambda: unsigned({"alg": "None"}, **ADMIN),
    "no alg": lambda: unsigned({"kid": "rs256"}, **ADMIN),
    "an alg that is no text": lambda: unsigned({"alg": ["RS256"], "kid": "rs256"}, **ADMIN),
    "no signature": lambda: RSA.sign(**ADMIN).rpartition(".")[0] + ".",
    "the public key as a secret": lambda: signed_by_secret(
        RSA.public_pem, {"alg": "HS256", "kid": "rs256"}, **ADMIN
    ),
    "the secret as RS256": lambda: signed_by_secret(
        RSA.public_pem, {"alg": "RS256", "kid": "rs256"}, **ADMIN
    ),
    "a key of another algorithm": lambda: unsigned({"alg": "ES256", "kid": "rs256"}, **ADMIN),
    "a key in the header": lambda: SigningKey("EdDSA", "eddsa").sign(
        {"jwk": SigningKey("EdDSA", "eddsa").public}, **ADMIN
    ),
    "other claims": lambda: ".".join(
        (EC.sign(**ADMIN).split(".")[0], EC.sign().split(".")[1], EC.sign(**ADMIN).split(".")[2])
    ),
    "no token": lambda: "a.b.c",
    "deep": lambda: "W1tb" * 1_000 + ".W10.",
}


@pytest.mark.parametrize("token", WRONG.values(), ids=WRONG)
def test_what_no_issuer_of_ours_signed_for_us_is_unknown(daemon, token):
    assert code(daemon, token()) == UNKNOWN


def test_the_log_says_why_and_shows_no_token(daemon):
    token = EC.sign(aud="else", sub="why", **ADMIN)
    assert code(daemon, token) == UNKNOWN
    eventually(lambda: any("udience" in line.get("why", "") for line in daemon.logs))
    assert token not in daemon.said


def test_a_token_ends_when_it_expires_although_it_was_good_before(daemon):
    token = EC.sign(exp=int(time.time()) + 2, **ADMIN)
    assert code(daemon, token) is None
    assert code(daemon, token) is None  # remembered
    time.sleep(2 + LEEWAY + 0.2)
    assert code(daemon, token) == EXPIRED
    late = EC.sign(exp=int(time.time() - 5), **ADMIN)
    assert code(daemon, late) == EXPIRED


def test_a_stream_ends_with_its_token(daemon):
    metadata = (("authorization", f"Bearer {EC.sign(exp=int(time.time()) + 2, **ADMIN)}"),)
    with Client(daemon.grpc) as client:
        watch = client.fleet.WatchWorkers(
            fleet_pb2.WatchWorkersRequest(), metadata=metadata, timeout=30
        )
        assert next(watch).synchronized
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as ended:
            next(watch)
        assert (ended.value.code().name, ended.value.details()) == EXPIRED
        assert time.monotonic() - began < 15
        streamed = client.router.RouteStream(iter([]), metadata=metadata)
        with pytest.raises(grpc.RpcError) as ended:
            list(streamed)
        assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_token_without_a_near_end_holds_a_stream(daemon):
    metadata = (("authorization", f"Bearer {EC.sign(exp=10**18, **ADMIN)}"),)
    with Client(daemon.grpc) as client:
        assert next(client.fleet.WatchWorkers(fleet_pb2.WatchWorkersRequest(), metadata=metadata))


def first_of(client):
    return lambda *request, **options: next(client.call(*request, **options))


def stranger_tokens():
    expired = EC.sign(exp=int(time.time()) - 60, **ADMIN)
    foreign = SigningKey("ES256", "es256").sign(**ADMIN)
    return [None, expired, foreign, EC.sign(aud="else", **ADMIN)]


@pytest.mark.parametrize("method", METHODS, ids=path_of)
def test_no_method_serves_an_expired_a_foreign_or_a_replayed_token(daemon, method):
    with Client(daemon.grpc) as client:
        for token in stranger_tokens():
            told = set()
            for model in (b"\n\x05known", b"\n\x07unknown", b"", b"\xff" * 50):
                metadata = (("authorization", f"Bearer {token}"),) if token else ()
                answers = client.call if not method.server_streaming else first_of(client)
                with pytest.raises(grpc.RpcError) as refused:
                    answers(method, model, metadata=metadata)
                told.add(refusal_of(refused.value))
            assert len(told) == 1
            assert told.pop().code == "UNAUTHENTICATED"


def test_keys_are_rotated_by_the_issuer(tmp_path):
    old, new = SigningKey("ES256", "old"), SigningKey("EdDSA", "new")
    with KeyServer(old) as keys, running_daemon(*flags(keys.url)) as daemon:
        before = old.sign(**ADMIN)
        assert code(daemon, before) is None
        assert code(daemon, new.sign(**ADMIN)) == UNKNOWN
        keys.body = key_set(new)
        # A key that is not there is asked for, but not by every call.
        eventually(lambda: code(daemon, new.sign(**ADMIN)) is None)
        assert code(daemon, before) == UNKNOWN  # remembered, but its key is gone
        asked = keys.asked
        for number in range(50):
            assert code(daemon, SigningKey("ES256", f"x{number}").sign(**ADMIN)) == UNKNOWN
        assert keys.asked <= asked + 4


def test_keys_in_a_file_are_followed(tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(key_set(EC))
    with running_daemon(*flags(path)) as daemon:
        assert code(daemon, EC.sign(**ADMIN)) is None
        path.write_text("{")
        eventually(lambda: any("not read" in line["event"] for line in daemon.logs))
        assert code(daemon, EC.sign(**ADMIN)) is None
        path.write_text(key_set(ED))
        eventually(lambda: code(daemon, ED.sign(**ADMIN)) is None)
        assert code(daemon, EC.sign(**ADMIN)) == UNKNOWN


def test_without_the_issuer_the_last_good_keys_go_on_for_a_while():
    with KeyServer(EC) as keys, running_daemon(*flags(keys.url, "--jwks-max-age", "4")) as daemon:
        assert code(daemon, EC.sign(**ADMIN)) is None
        keys.status = 503
        eventually(lambda: any("not read" in line["event"] for line in daemon.logs))
        assert code(daemon, EC.sign(**ADMIN)) is None
        eventually(lambda: (code(daemon, EC.sign(**ADMIN)) or "")[:1] == ("UNAVAILABLE",))
        assert code(daemon, "a.b.c") == UNKNOWN
        said = [line for line in daemon.logs if "not read" in line["event"]]
        assert "found 503" in said[0]["error"]
        keys.status = 200
        eventually(lambda: code(daemon, EC.sign(**ADMIN)) is None)


def test_a_slow_issuer_holds_nothing_up():
    with KeyServer(EC) as keys, running_daemon(*flags(keys.url)) as daemon:
        assert code(daemon, EC.sign(**ADMIN)) is None
        keys.delay = 3.0
        time.sleep(5.1)
        asked = keys.asked
        with Client(daemon.grpc) as client:
            method = next(method for method in METHODS if method.name == "ListPolicies")
            stranger = (("authorization", f"Bearer {ED.sign(**ADMIN)}"),)
            kind = client.channel.unary_unary(path_of(method))
            waiting = kind.future(b"", metadata=stranger, timeout=10)
            eventually(lambda: keys.asked > asked)
            began = time.monotonic()
            assert code(daemon, EC.sign(**ADMIN)) is None
            assert time.monotonic() - began < 2.5
            with pytest.raises(grpc.RpcError):
                waiting.result()


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        "[1]",
        '{"keys": []}',
        '{"keys": [7, {}, {"kty": []}, {"kty": "oct", "k": "c2VjcmV0", "kid": "hs"}]}',
        key_set(SigningKey("RS256", "short", rsa.generate_private_key(65_537, 1_024))),
        "[" * 5_000,
    ],
)
def test_a_set_without_a_key_of_use_is_said(tmp_path, body):
    path = tmp_path / "keys.json"
    path.write_text(body)
    with running_daemon(*flags(path)) as daemon:
        assert code(daemon, EC.sign(**ADMIN))[0] == "UNAVAILABLE"
        assert "expected" in next(line["error"] for line in daemon.logs if "error" in line)


def test_without_the_library_the_start_says_what_to_install(tmp_path):
    (tmp_path / "keys.json").write_text(key_set(EC))
    given = ("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--state", ":memory:")
    arguments = command(*flags(tmp_path / "keys.json"), *given)
    arguments[2] = f"import sys; sys.modules['jwt'] = None; {arguments[2]}"
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.endswith("pip install pyjwt cryptography\n")
    assert "Traceback" not in ended.stderr
