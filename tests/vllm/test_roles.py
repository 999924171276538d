"""What an engine is registered as, with the real daemon; `kv_both` alone harms nobody."""

import copy
import json
import logging
import time
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.vllm


class Heard(logging.Handler):
    def __init__(self):
        super().__init__()
        self.said = []

    def emit(self, record):
        self.said.append(record.getMessage())


@pytest.fixture(autouse=True)
def heard():
    """What the shim says in vLLM's log."""
    heard, logger = Heard(), logging.getLogger("vllm.eldr")
    logger.addHandler(heard)
    yield heard.said
    logger.removeHandler(heard)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    from rig import Daemon

    daemon = Daemon(tmp_path_factory.mktemp("daemon"))
    yield daemon
    daemon.kill()


@pytest.fixture(scope="module")
def config(model):
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs(str(model), block_size=32).create_engine_config()


@pytest.fixture
def engine(config, daemon, request):
    """The scheduler's side of one engine, complete, as vLLM makes it; the name of its model."""
    import torch
    from eldr_vllm.connector import EldrConnector
    from eldr_vllm.messages import EldrHandshake
    from vllm.config.kv_transfer import KVTransferConfig
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

    kv_role, role, name, *generation = request.param
    eldr = {"router": daemon.target, "url": "http://127.0.0.1:9", "health_check": False}
    eldr |= {"worker_id": name, "model": name, "timeout": 5.0, "role": role}
    inner = {"kv_connector": "OracleConnector", "kv_connector_module_path": "oracle_connector"}
    config = copy.copy(config)
    config.model_config = copy.copy(config.model_config)
    for settings in generation:
        vars(config.model_config).update(settings)
    config.kv_transfer_config = KVTransferConfig(
        kv_connector="EldrConnector",
        kv_connector_module_path="eldr_vllm.connector",
        kv_role=kv_role,
        kv_connector_extra_config={"eldr": eldr, "inner": inner},
    )
    spec = FullAttentionSpec(block_size=32, num_kv_heads=2, head_size=32, dtype=torch.float32)
    kv_cache = KVCacheConfig(16, [], [KVCacheGroupSpec(["layer"], spec)])
    connector = EldrConnector(config, KVConnectorRole.SCHEDULER, kv_cache)
    connector.set_xfer_handshake_metadata_pp_aware({(0, 0): EldrHandshake(None, (3, 16, 4))})
    yield connector, name
    connector.shutdown()


def workers(daemon, model, at_least=0):
    """A model's workers, once there are so many."""
    import grpc
    from eldr.v1 import fleet_pb2, fleet_pb2_grpc
    from rig import wait

    def listed():
        with grpc.insecure_channel(daemon.target) as channel:
            stub = fleet_pb2_grpc.FleetServiceStub(channel)
            all_of = stub.ListWorkers(fleet_pb2.ListWorkersRequest()).workers
        return [worker for worker in all_of if worker.model == model]

    if at_least:
        wait(lambda: len(listed()) >= at_least, 20)
    else:
        time.sleep(1.0)  # longer than a session waits before it tries again
    return listed()


@pytest.mark.parametrize(
    ("engine", "roles"),
    [
        (("kv_producer", "", "a"), {"PREFILL"}),
        (("kv_consumer", "", "b"), {"DECODE"}),
        (("kv_both", "prefill", "c"), {"PREFILL"}),
        (("kv_both", "decode", "d"), {"DECODE"}),
        (("kv_both", "both", "e"), {"PREFILL", "DECODE"}),
        (("kv_both", "replica", "h"), {"DECODE"}),
        (("kv_both", "", "f"), set()),
    ],
    indirect=["engine"],
)
def test_what_is_registered(heard, engine, roles, daemon):
    from eldr.v1.fleet_pb2 import WorkerRole

    found = workers(daemon, engine[1], len(roles))
    assert {WorkerRole.Name(w.role).removeprefix("WORKER_ROLE_") for w in found} == roles
    said = [each for each in heard if "does not register" in each]
    assert len(said) == (not roles)
    assert all('"role": "prefill", "decode" or "both"' in each for each in said)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, ""),
        ({"generation_config": "vllm"}, ""),
        ({"override_generation_config": {"top_k": 4, "presence_penalty": 0.0}}, ""),
        ({"override_generation_config": {"presence_penalty": 1.5}}, "presence_penalty"),
        ({"override_generation_config": {"max_new_tokens": 9}}, "max_new_tokens"),
        ({"hf_config_path": "FOLDER"}, "frequency_penalty"),  # there a limit is a default
        ({"generation_config": "FOLDER"}, "frequency_penalty,max_new_tokens"),
    ],
)
def test_what_a_generation_config_counts(config, tmp_path, changes, named):
    from eldr_vllm.generation_config import labels_of

    own = {"max_new_tokens": 7, "frequency_penalty": 1.0, "temperature": 0.5}
    (tmp_path / "generation_config.json").write_text(json.dumps(own))
    changed = copy.copy(config.model_config)
    for name, value in changes.items():
        setattr(changed, name, str(tmp_path) if value == "FOLDER" else value)
    found = labels_of(changed)
    changed.override_generation_config = {"presence_penalty": 1.0}
    if not changed.get_diff_sampling_param().get("presence_penalty"):  # vLLM 0.30 ignores them
        named = "max_new_tokens" if "max_new_tokens" in named else ""
    assert found == ({"generation-config": named} if named else {})


LIMIT = {"override_generation_config": {"max_new_tokens": 9}}


@pytest.mark.parametrize("engine", [("kv_consumer", "", "i", LIMIT)], indirect=True)
def test_a_generation_config_that_counts_answers_is_told(engine, daemon):
    (worker,) = workers(daemon, engine[1], 1)
    assert worker.labels == {"generation-config": "max_new_tokens"}


@pytest.mark.parametrize("engine", [("kv_both", "", "g")], indirect=True)
def test_its_bookings_are_released_all_the_same(engine, daemon):
    """Those that requests name, though this engine is no worker."""
    from eldr_client import LoadReport, RouterClient, WorkerSession
    from rig import wait
    from vllm.v1.request import RequestStatus

    connector, model = engine
    session = WorkerSession("known", model, "http://a:1", LoadReport, target=daemon.target)
    workers(daemon, model, 1)
    placement = RouterClient(daemon.target, timeout=5.0).route(model, "booked")
    assert not placement.is_fallback
    assert workers(daemon, model, 1)[0].booked_sequences == 1
    decode = SimpleNamespace(
        request_id="decode-0123abcd",
        num_prompt_tokens=40,
        num_output_tokens=7,
        status=RequestStatus.FINISHED_LENGTH_CAPPED,
        kv_transfer_params={
            "do_remote_prefill": True,
            "eldr": {"request_id": "booked", "attempt": 0, "lease_id": placement.lease_id},
        },
    )
    connector.on_new_request(decode)
    connector.request_finished_all_groups(decode, ([],))
    wait(lambda: workers(daemon, model, 1)[0].booked_sequences == 0, 20)
    session.close()


@pytest.mark.parametrize("role", ["", "both", "prefill", "decode"])
@pytest.mark.parametrize("remote", [True, False])
def test_what_a_request_is_for(role, remote):
    from eldr_vllm.scheduler.transfer_params import is_prefill

    request = SimpleNamespace(kv_transfer_params={"do_remote_decode": remote})
    assert is_prefill(request, role) is (role == "prefill" or (remote and role != "decode"))
