"""A token that is for some models opens nothing of others, and shows nothing of them."""

import itertools

import grpc
import pytest
from daemon import running_daemon
from eldr.v1 import fleet_pb2, partition_pb2, policy_pb2, router_pb2
from issuer import AUDIENCE, NAME, SigningKey, key_set
from wire import METHODS, Client, Refused, counts, drawn, path_of, read_status, refusal_of

EVERYONE, OF_QWEN = "everyone-token-0123456789", "of-qwen-token-0123456789"
TOKENS = f"""
[[tokens]]
name = "everyone"
token = "{EVERYONE}"
roles = ["admin"]
[[tokens]]
name = "of qwen"
token = "{OF_QWEN}"
roles = ["admin"]
models = ["qwen*", "small[1]"]
"""
OWN, OTHER, UNKNOWN = "qwen3-30b", "gpt-oss", "nothing-of-this-name"
KEY = SigningKey("EdDSA", "key")
REFUSED = ("PERMISSION_DENIED", "is not for this model")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    folder = tmp_path_factory.mktemp("credentials")
    tokens, keys = folder / "tokens.toml", folder / "keys.json"
    tokens.write_text(TOKENS)
    tokens.chmod(0o600)
    keys.write_text(key_set(KEY))
    issuer = ("--jwks", str(keys), "--jwt-issuer", NAME, "--jwt-audience", AUDIENCE)
    with running_daemon("--tokens", str(tokens), *issuer) as daemon:
        for model in (OWN, OTHER):
            with Client(daemon.grpc) as client:
                metadata = bearing(EVERYONE)
                request = fleet_pb2.RegisterWorkerRequest(
                    model=model, worker_id="w", url="http://w"
                )
                client.fleet.RegisterWorker(request, metadata=metadata)
                fit = partition_pb2.FitPartitionRequest(
                    model=model, num_slots=1, activate=True, counts=[counts(drawn(0))]
                )
                client.partition.FitPartition(fit, metadata=metadata)
        yield daemon


def bearing(token):
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture(params=["static", "signed"])
def token(request):
    if request.param == "static":
        return OF_QWEN
    return KEY.sign(sub="of qwen", roles=["admin"], models=["qwen*", "small[1]"])


@pytest.fixture
def client(daemon):
    with Client(daemon.grpc) as client:
        yield client


def ending(client, method, model, token):
    """What a caller is told, of the call or of the stream's first message."""
    field = method.input_type.fields_by_name["model"]
    assert field.number <= 2
    name = model.encode()
    message = bytes([field.number << 3 | 2, len(name)]) + name
    try:
        answer = client.call(method, message, metadata=bearing(token))
        if method.server_streaming:
            answer = next(answer)
    except grpc.RpcError as error:
        return refusal_of(error)
    if method.client_streaming:
        return read_status(answer.status)
    return answer


NAMING = [method for method in METHODS if "model" in method.input_type.fields_by_name]


def test_every_method_names_a_model_but_one():
    assert [m.name for m in METHODS if m not in NAMING] == ["ListPolicies"]


@pytest.mark.parametrize("method", NAMING, ids=path_of)
def test_no_method_touches_or_shows_another_model(client, method, token):
    if method.name == "ImportPartition":  # what it reads before the name is what came along
        exported = client.partition.ExportPartition(
            partition_pb2.ExportPartitionRequest(model=OTHER), metadata=bearing(EVERYONE)
        )
        request = partition_pb2.ImportPartitionRequest(data=exported.data)
        with Refused("PERMISSION_DENIED"):
            client.partition.ImportPartition(request, metadata=bearing(token))
    told = [ending(client, method, model, token) for model in (OTHER, UNKNOWN)]
    assert told[0] == told[1]
    assert (told[0].code, told[0].message) == (REFUSED[0], f"token of qwen {REFUSED[1]}")
    own = ending(client, method, OWN, token)
    assert getattr(own, "code", None) not in ("PERMISSION_DENIED", "UNAUTHENTICATED")


def test_a_chunk_of_ones_own_cannot_route_for_another(client, token):
    request = router_pb2.StreamSignaturesRequest(
        model=OWN, request_id="r", counts=counts(drawn(0)), route={"model": OTHER}
    )
    (answer,) = client.router.StreamSignatures(iter([request]), metadata=bearing(token))
    assert read_status(answer.status).code == "PERMISSION_DENIED"


def test_lists_show_the_callers_models_alone(client, token):
    def seen(token):
        metadata = bearing(token)
        workers = client.fleet.ListWorkers(fleet_pb2.ListWorkersRequest(), metadata=metadata)
        kept = client.partition.ListPartitions(
            partition_pb2.ListPartitionsRequest(), metadata=metadata
        )
        policies = client.policy.ListPolicies(policy_pb2.ListPoliciesRequest(), metadata=metadata)
        listed = (workers.workers, kept.partitions, kept.refits, policies.active)
        return [{each.model for each in listing} for listing in listed]

    assert seen(EVERYONE) == [{OWN, OTHER}] * 4
    assert seen(token) == [{OWN}] * 4


def test_watchers_are_told_of_the_callers_models_alone(client, token):
    numbers = itertools.count()

    def change(model):
        request = fleet_pb2.RegisterWorkerRequest(
            model=model, worker_id=f"joiner{next(numbers)}", url="http://w"
        )
        client.fleet.RegisterWorker(request, metadata=bearing(EVERYONE))

    watch = client.fleet.WatchWorkers(
        fleet_pb2.WatchWorkersRequest(), metadata=bearing(token), timeout=20
    )
    told = []
    for update in watch:
        told.append(update.worker.model)
        if update.synchronized:
            break
    for model in (OTHER, OWN):
        change(model)
    told.append(next(watch).worker.model)
    watch.cancel()
    assert set(told) == {OWN}


def test_only_the_star_is_a_sign_in_a_name(client, token):
    for model, code in (("small[1]", "UNAVAILABLE"), ("small1", "PERMISSION_DENIED")):
        request = router_pb2.RouteRequest(model=model, request_id="r")
        with Refused(code):
            client.router.Route(request, metadata=bearing(token))


@pytest.mark.parametrize("models", ["'qwen'", "[1]", "['']"])
def test_models_that_are_none_are_refused_at_the_start(tmp_path, models):
    path = tmp_path / "tokens.toml"
    path.write_text(TOKENS.partition("models")[0] + f"models = {models}\n")
    with (
        pytest.raises(RuntimeError, match="token 2: models: expected a list of model names"),
        running_daemon("--tokens", str(path)),
    ):
        pass
