"""Nothing of vLLM's connector interface is left to the base class's defaults, in any version."""

import inspect
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.vllm

OUTER = {
    "kv_connector": "EldrConnector",
    "kv_connector_module_path": "eldr_vllm.connector",
    "kv_role": "kv_producer",
}


def public(cls):
    """The members of a class by name; vLLM's base class calls those with an underscore itself."""
    return {
        name: value
        for name, value in vars(cls).items()
        if callable(value) or isinstance(value, property | classmethod | staticmethod)
        if not name.startswith("_")
    }


def interface():
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, SupportsHMA

    return public(KVConnectorBase_V1) | public(SupportsHMA)


class Inner:
    """Answers every call with its name and arguments."""

    def __getattr__(self, name):
        return lambda *args, **kwargs: (name, args, kwargs)


def delegating():
    from eldr_vllm.delegation import DelegatingConnector

    connector = object.__new__(DelegatingConnector)
    connector.inner = Inner()
    return connector


def test_every_member_is_forwarded():
    from eldr_vllm.delegation import DelegatingConnector

    assert interface().keys() - vars(DelegatingConnector).keys() == set()
    assert not DelegatingConnector.__abstractmethods__


def test_signatures_take_the_same_arguments():
    from eldr_vllm.delegation import DelegatingConnector

    for name, theirs in interface().items():
        if not isinstance(theirs, property):
            expected = inspect.signature(getattr(theirs, "__func__", theirs)).parameters
            found = inspect.getattr_static(DelegatingConnector, name)
            found = inspect.signature(getattr(found, "__func__", found)).parameters
            assert list(found) == list(expected), name


def test_every_call_reaches_the_wrapped_connector():
    connector = delegating()
    for name, member in interface().items():
        if isinstance(member, property):
            assert getattr(connector, name)() == (name, (), {})
        elif inspect.isfunction(member) and name != "request_finished_all_groups":
            assert getattr(connector, name)(1, key=2) == (name, (1,), {"key": 2})


def test_the_name_under_which_a_request_s_end_is_known():
    from vllm.distributed.kv_transfer.kv_connector.v1.base import SupportsHMA

    class Hybrid(Inner, SupportsHMA):
        def request_finished_all_groups(self, request, block_ids):
            return "all", request, block_ids

    connector = delegating()
    ended = connector.request_finished_all_groups("r", ([1, 2], [3]))
    assert ended == ("request_finished", ("r", [1, 2]), {})
    connector.inner = Hybrid()
    assert connector.request_finished_all_groups("r", ([1], [3])) == ("all", "r", ([1], [3]))


def test_what_a_later_version_adds_is_forwarded(model):
    """Members of every kind, of which this file knows nothing."""
    import abc

    from eldr_vllm.delegation import DelegatingConnector, forwarding, inner_transfer_config
    from vllm.config.kv_transfer import KVTransferConfig
    from vllm.engine.arg_utils import EngineArgs

    class Later(abc.ABC):
        @abc.abstractmethod
        def restore(self, what): ...

        @property
        def is_new(self):
            return None

        @classmethod
        def of_transfer(cls, kv_transfer_config):
            return None

        @classmethod
        def of_config(cls, vllm_config, other=0):
            return None

        @classmethod
        def of_nothing(cls, data=None):
            return None

        def known(self):
            return None

    class Wrapped(Later):
        restore = is_new = known = None
        of_transfer = classmethod(lambda cls, config: config.kv_connector_extra_config)
        of_config = classmethod(lambda cls, config, other=0: (config.kv_transfer_config, other))
        of_nothing = classmethod(lambda cls, data=None: data)

    @forwarding(Later)
    class Delegates(Later):
        inner = SimpleNamespace(restore=lambda what: ("restored", what), is_new=True)

        def known(self):
            return "own"

    connector = Delegates()
    assert connector.restore("x") == ("restored", "x")
    assert (connector.is_new, connector.known()) == (True, "own")
    extra = {"inner": {"kv_connector": "Wrapped", "kv_connector_module_path": __name__}, "k": 1}
    outer = KVTransferConfig(**OUTER, kv_connector_extra_config=extra)
    config = EngineArgs(str(model)).create_engine_config()
    config.kv_transfer_config = outer
    loads = "eldr_vllm.delegation.KVConnectorFactory.get_connector_class"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loads, lambda transfer: {"Wrapped": Wrapped}[transfer.kv_connector])
        patch.setattr(DelegatingConnector, "wrapped", None)
        assert Delegates.of_transfer(outer) == {"k": 1}
        assert Delegates.of_config(config, other=3) == (inner_transfer_config(outer), 3)
        assert Delegates.of_nothing("data") == "data"  # of the class that was named last


def inner(**extra):
    from eldr_vllm.delegation import inner_transfer_config
    from vllm.config.kv_transfer import KVTransferConfig

    more = {"kv_buffer_device": "cpu", "engine_id": "e", "kv_connector_extra_config": extra}
    return inner_transfer_config(KVTransferConfig(**OUTER, **more))


def test_the_inner_configuration():
    default = inner(eldr={"router": "r:1"}, kv_lease_duration=5)
    assert (default.kv_connector, default.kv_connector_module_path) == ("NixlConnector", None)
    assert default.kv_connector_extra_config == {"kv_lease_duration": 5}
    taken_over = default.kv_role, default.kv_buffer_device, default.engine_id
    assert taken_over == ("kv_producer", "cpu", "e")
    assert inner(inner=None) == inner(inner={}) == inner()


NIXL = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
OFFLOAD = {"kv_connector": "OffloadingConnector", "kv_role": "kv_both"}


@pytest.mark.parametrize(
    "extra",
    [
        {"connectors": [NIXL, OFFLOAD], "eldr": {"router": "r:1"}},
        {
            "inner": {
                "kv_connector": "MultiConnector",
                "kv_connector_extra_config": {"connectors": [NIXL, OFFLOAD]},
            }
        },
    ],
)
def test_several_connectors(extra):
    several = inner(**extra)
    assert several.kv_connector == "MultiConnector"
    assert several.kv_connector_extra_config == {"connectors": [NIXL, OFFLOAD]}
    assert several.has_connector("NixlConnector")
    assert several.has_connector("OffloadingConnector")


def test_one_of_several():
    extra = {"blocks": 3}
    only = inner(connectors=[{**OFFLOAD, "kv_connector_extra_config": extra}], eldr={}, more=1)
    assert (only.kv_connector, only.kv_role) == ("OffloadingConnector", "kv_both")
    assert only.kv_connector_extra_config == {"blocks": 3, "more": 1}


def test_classmethods_see_the_inner_configuration(model, monkeypatch):
    from eldr_vllm.connector import EldrConnector
    from eldr_vllm.delegation import DelegatingConnector
    from vllm.distributed.kv_transfer.kv_connector.v1.nixl.connector import NixlConnector
    from vllm.engine.arg_utils import EngineArgs

    config = EngineArgs(str(model), kv_transfer_config=OUTER).create_engine_config()
    plain = {"kv_connector": "NixlConnector", "kv_role": "kv_producer"}
    plain = EngineArgs(str(model), kv_transfer_config=plain).create_engine_config()
    assert EldrConnector.get_required_kvcache_layout(
        config
    ) == NixlConnector.get_required_kvcache_layout(plain)
    layerwise = {"inner": {"kv_connector": "LMCacheConnectorV1"}, "use_layerwise": True}
    assert EldrConnector.requires_piecewise_for_cudagraph(layerwise)
    assert not EldrConnector.requires_piecewise_for_cudagraph({"use_layerwise": True})
    monkeypatch.setattr(DelegatingConnector, "wrapped", None)  # by tests before
    assert EldrConnector.build_kv_connector_stats() is not None
