"""Nothing of vLLM's connector interface is left to the base class's defaults."""

import inspect

import pytest

pytestmark = pytest.mark.vllm

# The base class's own, which the wrapped connector calls on itself.
_NOT_FORWARDED = {"__init__", "_get_connector_metadata"}


def public(cls):
    return {
        name
        for name, value in vars(cls).items()
        if callable(value) or isinstance(value, property | classmethod | staticmethod)
        if not name.startswith("__")
    }


def test_every_method_is_forwarded():
    from eldr_vllm.delegation import DelegatingConnector
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, SupportsHMA

    wanted = (public(KVConnectorBase_V1) | public(SupportsHMA)) - _NOT_FORWARDED
    assert wanted - vars(DelegatingConnector).keys() == set()


def test_signatures_take_the_same_arguments():
    from eldr_vllm.delegation import DelegatingConnector
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1

    for name in public(KVConnectorBase_V1) - _NOT_FORWARDED:
        theirs = inspect.getattr_static(KVConnectorBase_V1, name)
        if isinstance(theirs, property):
            continue
        expected = inspect.signature(getattr(KVConnectorBase_V1, name)).parameters
        found = inspect.signature(getattr(DelegatingConnector, name)).parameters
        assert list(found) == list(expected), name


def test_the_inner_configuration():
    from eldr_vllm.delegation import inner_transfer_config
    from vllm.config.kv_transfer import KVTransferConfig

    def inner(**extra):
        return inner_transfer_config(
            KVTransferConfig(
                kv_connector="EldrConnector",
                kv_connector_module_path="eldr_vllm.connector",
                kv_role="kv_producer",
                kv_buffer_device="cpu",
                engine_id="e",
                kv_connector_extra_config=extra,
            )
        )

    default = inner(eldr={"router": "r:1"}, kv_lease_duration=5)
    assert default.kv_connector == "NixlConnector"
    assert default.kv_connector_module_path is None
    assert default.kv_connector_extra_config == {"kv_lease_duration": 5}
    assert (default.kv_role, default.kv_buffer_device, default.engine_id) == (
        "kv_producer",
        "cpu",
        "e",
    )
    children = [{"kv_connector": "NixlConnector", "kv_role": "kv_both"}]
    several = inner(
        inner={
            "kv_connector": "MultiConnector",
            "kv_connector_extra_config": {"connectors": children},
        }
    )
    assert several.has_connector("NixlConnector")


def test_classmethods_see_the_inner_configuration(model, monkeypatch):
    from eldr_vllm.connector import EldrConnector
    from eldr_vllm.delegation import DelegatingConnector
    from vllm.engine.arg_utils import EngineArgs

    transfer = {
        "kv_connector": "EldrConnector",
        "kv_connector_module_path": "eldr_vllm.connector",
        "kv_role": "kv_both",
    }
    config = EngineArgs(str(model), kv_transfer_config=transfer).create_engine_config()
    from vllm.distributed.kv_transfer.kv_connector.v1.nixl.connector import NixlConnector

    plain = EngineArgs(
        str(model),
        kv_transfer_config={
            **transfer,
            "kv_connector": "NixlConnector",
            "kv_connector_module_path": None,
        },
    ).create_engine_config()
    assert EldrConnector.get_required_kvcache_layout(
        config
    ) == NixlConnector.get_required_kvcache_layout(plain)
    assert not EldrConnector.requires_piecewise_for_cudagraph({})
    monkeypatch.setattr(DelegatingConnector, "_wrapped", None)  # by tests before
    assert EldrConnector.build_kv_connector_stats() is not None
