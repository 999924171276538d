"""Lets vLLM see the inner connector where it decides before it builds one.

Whether its hybrid KV cache manager is on depends on the connector's support for it, and what NIXL
or a CPU offload needs is prepared by their names. Both are decided from the configuration alone.
Our connector has another name and supports the manager, so without this an engine would start
differently than without ELDR.
"""

import functools
from typing import Any


def show() -> None:
    """Make vLLM ask the inner connector; idempotent.

    Raises
    ------
    ImportError, AttributeError
        This vLLM version asks in another way.
    """
    from vllm.config.kv_transfer import KVTransferConfig
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    supports, has = KVConnectorFactory.supports_hma_config, KVTransferConfig.has_connector
    if hasattr(has, "__wrapped__"):
        return

    @functools.wraps(supports)
    def supports_hma_config(kv_transfer_config: Any) -> bool:
        return supports(_inside(kv_transfer_config))

    @functools.wraps(has)
    def has_connector(self: Any, connector_name: str) -> bool:
        return has(self, connector_name) or has(_inside(self), connector_name)

    KVConnectorFactory.supports_hma_config = staticmethod(supports_hma_config)
    KVTransferConfig.has_connector = has_connector


def _inside(transfer: Any) -> Any:
    if not (transfer.kv_connector_module_path or "").startswith("eldr_vllm."):
        return transfer
    from eldr_vllm.delegation import inner_transfer_config

    return inner_transfer_config(transfer)
