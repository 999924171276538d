"""Engines start with ELDR around other connectors as without it, and give the same tokens."""

import json
import sys
import time

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

SECONDS = 400  # for one engine; 40 where nothing else runs

NIXL = {"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cpu"}


def on_disk(folder):
    """vLLM's ExampleConnector, which knows nothing of the hybrid KV cache manager."""
    extra = {"shared_storage_path": str(folder)}
    return {
        "kv_connector": "ExampleConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": extra,
    }


def wrapped(name, module, **extra):
    return {
        "kv_connector": name,
        "kv_connector_module_path": module,
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"eldr": {"router": "127.0.0.1:1"}, **extra},
    }


def around(inner):
    return wrapped("EldrConnector", "eldr_vllm.connector", inner=inner)


def among(*connectors):
    return wrapped("MultiConnector", "eldr_vllm.multi", connectors=list(connectors))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What an engine says: its answer, or None where it did not come up, and its log."""
    from rig import Process, wait

    folder = tmp_path_factory.mktemp("engines")

    def run_one(model, transfer, **options):
        options = json.dumps({"kv_transfer_config": transfer, **options})
        command = [sys.executable, "-m", "greedy_engine", str(model), options]
        engine = Process(command, folder / f"{time.monotonic_ns()}.log")
        try:
            wait(lambda: not engine.is_alive, SECONDS, lambda: engine.log.read_text()[-4000:])
        finally:
            engine.kill()
        log = engine.log.read_text()
        answers = [line for line in log.splitlines() if line.startswith('{"tokens"')]
        return (json.loads(answers[0]) if answers else None), log

    return run_one


@pytest.fixture(scope="module")
def alone(model, run):
    """An engine without any connector."""
    answer, log = run(model, None)
    assert answer, log
    assert not answer["cached"]  # everything was evicted before it was asked for again
    return answer["tokens"]


@pytest.mark.parametrize("form", ["around", "among others"])
def test_with_another_connector_inside(model, alone, run, tmp_path, form):
    """One that does not support the hybrid KV cache manager; a MultiConnector with NIXL in it."""
    disk = on_disk(tmp_path)
    transfer = around(disk) if form == "around" else among(NIXL, disk)
    answer, log = run(model, transfer)
    assert answer, log
    assert "steps aside" not in log
    assert answer["tokens"] == alone
    assert answer["cached"]  # the second time it was the connector that had the KV


def test_with_several_kv_cache_groups(run, tmp_path):
    """vLLM turns its hybrid manager off, as the connector inside does not support it."""
    from tiny_sliding import build

    model = build(tmp_path / "model")
    options = {"load_format": "dummy", "num_gpu_blocks_override": 44}
    plain, log = run(model, on_disk(tmp_path / "plain"), **options)
    assert plain, log
    answer, log = run(model, around(on_disk(tmp_path / "inside")), **options)
    assert answer, log
    assert answer == plain


@pytest.fixture(scope="module")
def shown():
    """As vLLM's plugins do it in each process."""
    from eldr_vllm import plugin

    plugin.load()


PLAIN = {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}


@pytest.mark.parametrize(
    ("transfer", "supports", "names"),
    [
        (wrapped("EldrConnector", "eldr_vllm.connector"), True, {"NixlConnector"}),
        (around(NIXL), True, {"NixlConnector"}),
        (around(PLAIN), False, {"ExampleConnector"}),
        (around({"kv_connector": "NixlPushConnector"}), True, {"NixlPushConnector"}),
        (among(NIXL, PLAIN), False, {"NixlConnector", "ExampleConnector"}),
        (among(PLAIN), False, {"ExampleConnector"}),
        (among(NIXL), True, {"NixlConnector"}),
        (NIXL, True, {"NixlConnector"}),
        (PLAIN, False, {"ExampleConnector"}),
    ],
)
def test_what_vllm_asks_before_it_builds_a_connector(shown, transfer, supports, names):
    from vllm.config.kv_transfer import KVTransferConfig
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    config = KVTransferConfig(**transfer)
    assert KVConnectorFactory.supports_hma_config(config) is supports
    known = {"NixlConnector", "NixlPushConnector", "ExampleConnector", "OffloadingConnector"}
    assert {name for name in known if config.has_connector(name)} == names


def test_without_the_plugin_it_says_what_to_write():
    from types import SimpleNamespace

    from eldr_vllm.delegation import _without_groups

    config = SimpleNamespace(kv_transfer_config=SimpleNamespace(kv_connector="ExampleConnector"))
    with pytest.raises(ValueError, match=r"ExampleConnector does not support.*eldr_vllm\.multi"):
        _without_groups(config, SimpleNamespace(kv_cache_groups=[None, None]))
