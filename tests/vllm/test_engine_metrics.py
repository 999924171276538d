"""What the shim tells vLLM's own metrics, by vLLM's own classes, without an engine."""

import json

import pytest

pytestmark = pytest.mark.vllm

NEWS = {"state": "CAPTURING", "layers": 4, "prompt_tokens_known": 60, "signatures_sent": 2}


@pytest.fixture
def nixl():
    """NIXL's statistics, of a transfer that failed."""
    from vllm.distributed.kv_transfer.kv_connector.v1.nixl.stats import NixlKVConnectorStats

    stats = NixlKVConnectorStats()
    stats.record_failed_transfer()
    return stats


@pytest.fixture
def config(request):
    """A configuration of vLLM as far as metrics need it, for the connector as named by the test."""
    from types import SimpleNamespace

    from vllm.config import KVTransferConfig

    ours = {
        "kv_connector": "EldrConnector",
        "kv_connector_module_path": "eldr_vllm.connector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"eldr": {}},
    }
    if request.param == "beside others":
        extra = {"connectors": [ours, {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}]}
        ours = {"kv_connector": "MultiConnector", "kv_role": "kv_both"}
        ours["kv_connector_extra_config"] = extra
    return SimpleNamespace(kv_transfer_config=KVTransferConfig(**ours))


@pytest.fixture
def prom(config):
    """vLLM's metrics for that, in a registry of their own, and what they show."""
    from functools import partial

    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
    from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorProm

    registry = CollectorRegistry()

    class Prom(KVConnectorProm):
        _gauge_cls = partial(Gauge, registry=registry)
        _counter_cls = partial(Counter, registry=registry)
        _histogram_cls = partial(Histogram, registry=registry)

    prom = Prom(config, ["model_name", "engine"], {0: ["m", "0"], 1: ["m", "1"]})
    return prom, lambda: generate_latest(registry).decode()


def of_both_sides(nixl):
    """As vLLM's scheduler adds up what the workers' side and its own have told."""
    from eldr_vllm.stats import EldrStats

    return EldrStats({}, nixl).aggregate(EldrStats(dict(NEWS)))


@pytest.mark.parametrize("config", ["alone", "beside others"], indirect=True)
def test_both_connectors_are_shown(config, prom, nixl):
    from vllm.distributed.kv_transfer.kv_connector.v1.multi_connector import MultiKVConnectorStats

    prom, shown = prom
    stats = of_both_sides(nixl)
    if config.kv_transfer_config.kv_connector == "MultiConnector":
        stats = MultiKVConnectorStats({"EldrConnector": stats})
    for _ in range(2):
        prom.observe(json.loads(json.dumps(stats.to_dict())), 1)
    text, labels = shown(), 'engine="1",model_name="m"'
    for line in (
        f'eldr_vllm_capture{{{labels},state="CAPTURING"}} 1.0',
        f'eldr_vllm_capture{{{labels},state="PROBING"}} 0.0',
        f"eldr_vllm_captured_layers{{{labels}}} 4.0",
        f'eldr_vllm_signatures_total{{{labels},outcome="sent"}} 4.0',
        f'eldr_vllm_signatures_total{{{labels},outcome="failed"}} 0.0',
        'eldr_vllm_prompt_tokens_total{engine="1",experts="known",model_name="m"} 120.0',
        f"eldr_vllm_messages_dropped_total{{{labels}}} 0.0",
        f"vllm:nixl_num_failed_transfers_total{{{labels}}} 2.0",
    ):
        assert line in text
    assert 'eldr_vllm_signatures_total{engine="0",model_name="m",outcome="sent"} 0.0' in text


@pytest.mark.parametrize("config", ["alone", "beside others"], indirect=True)
def test_vllms_log_has_both(config, prom, nixl):
    from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorLogging
    from vllm.distributed.kv_transfer.kv_connector.v1.multi_connector import MultiKVConnectorStats

    stats, said = of_both_sides(nixl), []
    if config.kv_transfer_config.kv_connector == "MultiConnector":
        stats = MultiKVConnectorStats({"EldrConnector": stats})
    logging = KVConnectorLogging(config.kv_transfer_config)
    for _ in range(2):
        logging.observe(json.loads(json.dumps(stats.to_dict())))
    logging.log(lambda text, *values: said.append(text % values))
    [line] = said
    assert "signatures_sent" in line
    assert "ailed transfers" in line
    logging.log(lambda *_: pytest.fail("there is nothing new"))


@pytest.mark.parametrize("config", ["alone"], indirect=True)
def test_a_failure_of_ours_leaves_the_others_alone(config, prom, nixl, caplog):
    prom, shown = prom
    told = of_both_sides(nixl).to_dict()
    told["eldr"] = {"no such count": 1}
    for _ in range(2):
        prom.observe(told, 0)
    assert 'vllm:nixl_num_failed_transfers_total{engine="0",model_name="m"} 2.0' in shown()


def test_statistics_of_either_side_add_up(nixl):
    from eldr_vllm.stats import EldrStats

    assert EldrStats().is_empty()
    assert not EldrStats({}, nixl).is_empty()
    both = of_both_sides(nixl).aggregate(EldrStats({"state": "STOPPED", "signatures_sent": 1}))
    assert both.data == {**NEWS, "state": "STOPPED", "signatures_sent": 3}
    assert both.inner is nixl
    both.reset()
    assert both.is_empty()
