"""A connector that delegates to another one.

vLLM's base class has a working default for most methods, so a method that is not forwarded would
silently do nothing. The forwarded methods are therefore derived from the base class of the
installed vLLM, whatever its version; only what cannot be passed on unchanged is written here.
"""

import abc
import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

from vllm.config import VllmConfig
from vllm.config.kv_transfer import KVTransferConfig
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorRole,
    SupportsHMA,
)

DEFAULT_INNER = "NixlConnector"
NO_TRANSFER = {
    "kv_connector": "NoTransfer",
    "kv_connector_module_path": "eldr_vllm.no_transfer",
}
OWN_KEYS = ("eldr", "inner")


def inner_transfer_config(outer: KVTransferConfig) -> KVTransferConfig:
    """The configuration of the wrapped connector.

    It is given by `inner`, or is the only one of `connectors`; several of them are a
    MultiConnector. A replica, which prefills what it decodes, needs none. What it does not set is
    as in the outer configuration; the extra configuration lacks our own keys.
    """
    extra = outer.kv_connector_extra_config
    rest = {key: value for key, value in extra.items() if key not in OWN_KEYS}
    given = extra.get("inner")
    if given is None and (connectors := rest.get("connectors")):
        given = {"kv_connector": "MultiConnector"}
        if len(connectors) == 1:
            given = connectors[0]
            del rest["connectors"]
    eldr = extra.get("eldr")
    if given is None and isinstance(eldr, dict) and eldr.get("role") == "replica":
        given = NO_TRANSFER
    given = dict(given or {})
    given.setdefault("kv_connector", DEFAULT_INNER)
    given.setdefault("kv_connector_module_path", None)
    given["kv_connector_extra_config"] = {**rest, **given.get("kv_connector_extra_config", {})}
    return dataclasses.replace(outer, **given)


def inner_config(vllm_config: VllmConfig) -> VllmConfig:
    """`vllm_config` as the wrapped connector should see it."""
    config = copy.copy(vllm_config)
    config.kv_transfer_config = inner_transfer_config(vllm_config.kv_transfer_config)
    return config


def _without_groups(config: VllmConfig, kv_cache_config: Any) -> VllmConfig:
    """`config` for a connector that does not support vLLM's hybrid KV cache manager.

    With one group the manager makes no difference, so it may be reported as off.

    Raises
    ------
    ValueError
        There are several groups.
    """
    if len(kv_cache_config.kv_cache_groups) > 1:
        raise ValueError(
            f"{config.kv_transfer_config.kv_connector} does not support the hybrid KV cache "
            "manager, and this model's KV cache has several groups. vLLM turns the manager off by "
            "itself if it loads ELDR's plugin (eldr, if VLLM_PLUGINS names any), or if "
            '"kv_connector" is "MultiConnector", "kv_connector_module_path" "eldr_vllm.multi", and '
            '"connectors" replaces "inner"; --disable-hybrid-kv-cache-manager turns it off in any '
            "case"
        )
    config.scheduler_config = copy.copy(config.scheduler_config)
    config.scheduler_config.disable_hybrid_kv_cache_manager = True
    return config


def forwarding(*interfaces: type) -> Callable[[type], type]:
    """Decorate a class to forward what the interfaces have and it does not define itself.

    Methods and properties go to `inner`. Classmethods go to the class of the wrapped connector,
    found from the configuration among their arguments, or else the one wrapped last in this
    process.
    """

    def decorate(cls: type) -> type:
        for name, member in {k: v for each in interfaces for k, v in vars(each).items()}.items():
            if name.startswith("_") or name in vars(cls):
                continue
            if isinstance(member, property):
                setattr(cls, name, _property(name, member))
            elif isinstance(member, classmethod):
                setattr(cls, name, _classmethod(name, member))
            elif inspect.isfunction(member):
                setattr(cls, name, _method(name, member))
        return abc.update_abstractmethods(cls)

    return decorate


def _property(name: str, member: property) -> property:
    return property(lambda self: getattr(self.inner, name), doc=member.__doc__)


def _method(name: str, member: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(member)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.inner, name)(*args, **kwargs)

    vars(forward).pop("__isabstractmethod__", None)
    return forward


def _classmethod(name: str, member: Any) -> Any:
    @functools.wraps(member.__func__)
    def forward(cls: type, *args: Any, **kwargs: Any) -> Any:
        args = tuple(_as_inner(value) for value in args)
        kwargs = {key: _as_inner(value) for key, value in kwargs.items()}
        for value in (*args, *kwargs.values()):
            if isinstance(value, VllmConfig | KVTransferConfig):
                transfer = getattr(value, "kv_transfer_config", value)
                DelegatingConnector.wrapped = KVConnectorFactory.get_connector_class(transfer)
        wrapped = DelegatingConnector.wrapped
        if wrapped is None:
            wrapped = KVConnectorFactory.get_connector_class_by_name(DEFAULT_INNER)
        return getattr(wrapped, name)(*args, **kwargs)

    return classmethod(forward)


def _as_inner(value: Any) -> Any:
    if isinstance(value, VllmConfig):
        return inner_config(value)
    return inner_transfer_config(value) if isinstance(value, KVTransferConfig) else value


@forwarding(KVConnectorBase_V1, SupportsHMA)
class DelegatingConnector(KVConnectorBase_V1, SupportsHMA):
    """Builds the wrapped connector as vLLM would, and forwards every call to it."""

    wrapped: type[KVConnectorBase_V1] | None = None  # last, in this process

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: Any):
        super().__init__(vllm_config, role, kv_cache_config)
        config = inner_config(vllm_config)
        if not KVConnectorFactory.supports_hma_config(config.kv_transfer_config):
            config = _without_groups(config, kv_cache_config)
        self.inner: KVConnectorBase_V1 = KVConnectorFactory.create_connector(
            config, role, kv_cache_config
        )
        self._connectors = [self.inner]  # where vLLM looks for nested connectors
        DelegatingConnector.wrapped = type(self.inner)

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        """Forwarded, with the wrapped connector's extra configuration."""
        outer = KVTransferConfig(kv_role="kv_both", kv_connector_extra_config=extra_config)
        config = inner_transfer_config(outer)
        return KVConnectorFactory.get_connector_class(config).requires_piecewise_for_cudagraph(
            config.kv_connector_extra_config
        )

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Forwarded, under the name that the wrapped connector implements."""
        if isinstance(self.inner, SupportsHMA):
            return self.inner.request_finished_all_groups(request, block_ids)
        return self.inner.request_finished(request, block_ids[0])
