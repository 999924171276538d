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
        if any(words in record.getMessage() for words in ("steps aside", "captures nothing")):
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


@pytest.mark.parametrize(
    ("eldr", "says"),
    [
        ({"rooter": "x"}, "unknown settings: rooter"),
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
    connector._scheduler._plan = None
    assert_serves(connector)
    assert len(warnings) == 2
    assert "steps aside (capture)" in warnings[0]


def test_a_retired_setting_does_no_harm(config, kv_cache, warnings, monkeypatch):
    monkeypatch.setitem(
        config.kv_transfer_config.kv_connector_extra_config, "eldr", {"force": True}
    )
    connector = scheduler_side(config, kv_cache)
    assert connector._scheduler.capture.capturing
    connector.shutdown()
    assert not warnings


def test_the_first_group_of_full_attention(config, kv_cache):
    import torch
    from eldr_vllm.attention_group import attention_group
    from vllm.v1.kv_cache_interface import (
        FullAttentionSpec,
        KVCacheGroupSpec,
        SlidingWindowSpec,
        UniformTypeKVCacheSpecs,
    )

    shape = {"num_kv_heads": 2, "head_size": 32, "dtype": torch.float32}
    sliding = KVCacheGroupSpec(["a"], SlidingWindowSpec(block_size=64, sliding_window=64, **shape))
    full = FullAttentionSpec(block_size=32, **shape)
    kv_cache.kv_cache_groups = [sliding, KVCacheGroupSpec(["b", "c"], full), *[sliding] * 2]
    group = attention_group(config, kv_cache)
    assert (group.index, group.block_size, group.layer) == (1, 32, "b")
    layers = UniformTypeKVCacheSpecs(block_size=32, kv_cache_specs={"d": full, "e": full})
    kv_cache.kv_cache_groups = [KVCacheGroupSpec(["d", "e"], layers)]
    assert attention_group(config, kv_cache).layer == "d"


def test_without_full_attention(config, kv_cache, warnings):
    import torch
    from vllm.v1.kv_cache_interface import KVCacheGroupSpec, SlidingWindowSpec

    shape = {"num_kv_heads": 2, "head_size": 32, "dtype": torch.float32}
    sliding = SlidingWindowSpec(block_size=32, sliding_window=64, **shape)
    kv_cache.kv_cache_groups = [KVCacheGroupSpec(["a"], sliding)]
    assert_serves(scheduler_side(config, kv_cache))
    assert len(warnings) == 1
    assert "keeps all of a prompt's tokens" in warnings[0]
    assert "SlidingWindowSpec" in warnings[0]


def test_context_parallelism(config, kv_cache, warnings, monkeypatch):
    monkeypatch.setattr(config.parallel_config, "decode_context_parallel_size", 2)
    assert_serves(scheduler_side(config, kv_cache))
    assert "context parallelism" in warnings[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, "no MoE layer"),  # nothing is loaded in this process
        ({"enable_dbo": True}, "dual batch overlap"),
        ({"enable_return_routed_experts": True}, "captures the same layers"),
        ({"zero_expert_num": 4}, "as expert 0"),
    ],
)
def test_models_and_modes_that_are_not_captured(config, monkeypatch, change, says):
    from eldr_vllm.guard import UnsupportedError
    from eldr_vllm.worker.moe_layers import moe_layers

    owners = {
        "enable_dbo": config.parallel_config,
        "enable_return_routed_experts": config.aux_output_config,
        "zero_expert_num": config.model_config.hf_text_config,
    }
    for name, value in change.items():
        monkeypatch.setattr(owners[name], name, value, raising=False)
    with pytest.raises(UnsupportedError, match=says):
        moe_layers(config)


@pytest.mark.parametrize("said", [None, "x", {"request_id": 3, "epoch": "x", "attempt": -1}])
def test_what_callers_say_wrongly_does_no_harm(config, kv_cache, warnings, said):
    connector = scheduler_side(config, kv_cache)
    connector.on_new_request(request(do_remote_decode=True, eldr=said))
    connector.on_new_request(request(do_remote_decode=False, eldr=said))
    connector.shutdown()
    assert not warnings
