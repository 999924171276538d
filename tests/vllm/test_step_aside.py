"""What the shim does not know it leaves alone, says so once, and serves on."""

import logging
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.vllm


class Heard(logging.Handler):
    def __init__(self):
        super().__init__()
        self.said = []

    def emit(self, record):
        if "steps aside" in record.getMessage():
            self.said.append(record.getMessage())


@pytest.fixture
def warnings():
    """What the shim says when it gives way."""
    heard, logger = Heard(), logging.getLogger("vllm.eldr")
    logger.addHandler(heard)
    yield heard.said
    logger.removeHandler(heard)


@pytest.fixture(scope="module")
def config(model, tmp_path_factory):
    from vllm.engine.arg_utils import EngineArgs

    inner = {
        "kv_connector": "OracleConnector",
        "kv_connector_module_path": "oracle_connector",
        "kv_connector_extra_config": {"log": str(tmp_path_factory.mktemp("oracle"))},
    }
    return EngineArgs(
        str(model),
        block_size=32,
        kv_transfer_config={
            "kv_connector": "EldrConnector",
            "kv_connector_module_path": "eldr_vllm.connector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": {"eldr": {"router": "127.0.0.1:1"}, "inner": inner},
        },
    ).create_engine_config()


@pytest.fixture
def kv_cache():
    import torch
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

    spec = FullAttentionSpec(block_size=32, num_kv_heads=2, head_size=32, dtype=torch.float32)
    return KVCacheConfig(16, [], [KVCacheGroupSpec(["layer"], spec)])


def scheduler_side(config, kv_cache):
    from eldr_vllm.connector import EldrConnector
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole

    return EldrConnector(config, KVConnectorRole.SCHEDULER, kv_cache)


def request(**params):
    return SimpleNamespace(
        request_id="cmpl-1-0-0123abcd",
        num_prompt_tokens=40,
        kv_transfer_params=params,
        num_output_tokens=0,
        status=None,
    )


def assert_serves(connector):
    """Every call comes through, with the wrapped connector's answer."""
    from vllm.v1.core.sched.output import SchedulerOutput

    connector.on_new_request(request())
    meta = connector.build_connector_meta(SchedulerOutput.make_empty())
    assert meta.plan is None
    assert connector.request_finished_all_groups(request(), ([],)) == (False, None)
    connector.shutdown()


def test_unchecked_version(config, kv_cache, warnings, monkeypatch):
    import vllm

    monkeypatch.setattr(vllm, "__version__", "0.99.1")
    assert_serves(scheduler_side(config, kv_cache))
    assert len(warnings) == 1
    assert "0.99.1" in warnings[0]


@pytest.mark.parametrize(
    ("eldr", "says"),
    [
        ({"rooter": "x"}, "no setting is called rooter"),
        ({"role": "both sides"}, "role: expected one of"),
        ({"capacity": "many"}, "capacity: expected int"),
        ({"record_share": 3}, "record_share: expected 0 to 1, found 3"),
        ({"root_certificates": "/does/not/exist"}, "No such file"),
    ],
)
def test_wrong_settings(config, kv_cache, warnings, monkeypatch, eldr, says):
    monkeypatch.setitem(config.kv_transfer_config.kv_connector_extra_config, "eldr", eldr)
    assert_serves(scheduler_side(config, kv_cache))
    assert len(warnings) == 1
    assert says in warnings[0]


def test_a_failure_while_serving(config, kv_cache, warnings):
    connector = scheduler_side(config, kv_cache)
    connector.on_new_request(SimpleNamespace(**{**vars(request()), "num_prompt_tokens": 1}))
    connector._scheduler.plan = None
    assert_serves(connector)
    assert len(warnings) == 1


def test_a_model_without_experts(config, kv_cache):
    from eldr_vllm import compat
    from eldr_vllm.guard import UnsupportedError

    with pytest.raises(UnsupportedError, match="no MoE layer"):
        compat.moe_layers(config, force=True)  # nothing is loaded in this process


def test_layouts(config, kv_cache, monkeypatch):
    from eldr_vllm import compat
    from eldr_vllm.guard import UnsupportedError

    compat.check_layout(config, kv_cache, force=False)
    monkeypatch.setattr(config.parallel_config, "enable_expert_parallel", True)
    with pytest.raises(UnsupportedError, match="expert parallelism was not verified"):
        compat.check_layout(config, kv_cache, force=False)
    compat.check_layout(config, kv_cache, force=True)
    kv_cache.kv_cache_groups = kv_cache.kv_cache_groups * 2
    with pytest.raises(UnsupportedError, match="several groups"):
        compat.check_layout(config, kv_cache, force=True)


@pytest.mark.parametrize("said", [None, "x", {"request_id": 3, "epoch": "x", "attempt": -1}])
def test_what_callers_say_wrongly_does_no_harm(config, kv_cache, warnings, said):
    connector = scheduler_side(config, kv_cache)
    connector.on_new_request(request(do_remote_decode=True, eldr=said))
    connector.on_new_request(request(do_remote_decode=False, eldr=said))
    connector.shutdown()
    assert not warnings


def test_own_rows(monkeypatch):
    import torch
    from eldr_vllm.worker import own_rows as layout

    def rows(count, sizes=None, tokens=(3, 5), dp_rank=1, tp_size=2):
        metadata = SimpleNamespace(num_tokens_across_dp_cpu=torch.tensor(tokens), local_sizes=sizes)
        context = SimpleNamespace(dp_metadata=metadata)
        monkeypatch.setattr(layout, "get_forward_context", lambda: context)
        ids = torch.arange(count).unsqueeze(1)
        return layout.own_rows(ids, dp_rank, tp_size).flatten().tolist()

    assert rows(8) == [3, 4, 5, 6, 7]  # every rank's tokens
    assert rows(5) == [0, 1, 2, 3, 4]  # this rank's
    assert rows(10, sizes=[2, 2, 3, 3]) == [4, 5, 6, 7, 8]  # padded shards
    with pytest.raises(layout.UnsupportedError, match="fit no layout"):
        rows(7)
