"""A connector that does what another one does.

vLLM's base class has a working default for most methods, so each one is forwarded by name: a
method that was forgotten would silently do nothing. `tests/vllm/test_delegation.py` compares this
file with the base class of the vLLM that is installed.
"""

from __future__ import annotations  # names of the interface that only some vLLM versions have

import copy
import dataclasses
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from vllm.config import VllmConfig
from vllm.config.kv_transfer import KVTransferConfig
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)

if TYPE_CHECKING:
    from vllm.distributed.kv_transfer.kv_connector.v1.base import (
        KVConnectorHandshakeMetadata,
        KVConnectorTransferResults,
        KVConnectorWorkerMetadata,
    )

DEFAULT_INNER = "NixlConnector"
OWN_KEYS = ("eldr", "inner")


def inner_transfer_config(outer: KVTransferConfig) -> KVTransferConfig:
    """The configuration of the wrapped connector.

    What `inner` does not say is as in the outer configuration; the extra configuration without our
    own keys.
    """
    given = dict(outer.kv_connector_extra_config.get("inner", {}))
    extra = outer.kv_connector_extra_config
    rest = {key: value for key, value in extra.items() if key not in OWN_KEYS}
    given.setdefault("kv_connector", DEFAULT_INNER)
    given.setdefault("kv_connector_module_path", None)
    given["kv_connector_extra_config"] = {**rest, **given.get("kv_connector_extra_config", {})}
    return dataclasses.replace(outer, **given)


def inner_config(vllm_config: VllmConfig) -> VllmConfig:
    """`vllm_config` as the wrapped connector should see it."""
    config = copy.copy(vllm_config)
    config.kv_transfer_config = inner_transfer_config(vllm_config.kv_transfer_config)
    return config


def _inner_class(transfer_config: KVTransferConfig) -> type[KVConnectorBase_V1]:
    return KVConnectorFactory.get_connector_class(transfer_config)


class DelegatingConnector(KVConnectorBase_V1, SupportsHMA):
    """Builds the wrapped connector as vLLM would, and forwards every call to it.

    Whether the wrapped connector supports the hybrid memory allocator is checked by vLLM's factory
    when it is built.
    """

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: Any):
        super().__init__(vllm_config, role, kv_cache_config)
        self.inner: KVConnectorBase_V1 = KVConnectorFactory.create_connector(
            inner_config(vllm_config), role, kv_cache_config
        )
        DelegatingConnector._wrapped = type(self.inner)

    # Attributes of the class, for vLLM's start

    @classmethod
    def get_required_kvcache_layout(cls, vllm_config: VllmConfig) -> str | None:
        """Forwarded."""
        config = inner_config(vllm_config)
        return _inner_class(config.kv_transfer_config).get_required_kvcache_layout(config)

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        """Forwarded, with the wrapped connector's extra configuration."""
        outer = KVTransferConfig(kv_role="kv_both", kv_connector_extra_config=extra_config)
        config = inner_transfer_config(outer)
        return _inner_class(config).requires_piecewise_for_cudagraph(
            config.kv_connector_extra_config
        )

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> Any:
        """Forwarded, to the class that was wrapped last in this process (by default vLLM's NIXL).

        vLLM gives no configuration here; it has given one to `build_prom_metrics` before, or has
        built the connector.
        """
        inner = cls._wrapped or KVConnectorFactory.get_connector_class_by_name(DEFAULT_INNER)
        return inner.build_kv_connector_stats(data)

    _wrapped: type[KVConnectorBase_V1] | None = None

    @classmethod
    def build_prom_metrics(
        cls,
        vllm_config: VllmConfig,
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> Any:
        """Forwarded."""
        config = inner_config(vllm_config)
        inner = DelegatingConnector._wrapped = _inner_class(config.kv_transfer_config)
        return inner.build_prom_metrics(config, metric_types, labelnames, per_engine_labelvalues)

    # Properties

    @property
    def supports_divergent_local_hybrid_hits(self) -> bool:
        """Forwarded."""
        return self.inner.supports_divergent_local_hybrid_hits

    @property
    def requires_kv_delivery(self) -> bool:
        """Forwarded."""
        return self.inner.requires_kv_delivery

    @property
    def role(self) -> KVConnectorRole:
        """Forwarded."""
        return self.inner.role

    # The workers' side

    def get_mem_pool_context(self) -> AbstractContextManager[Any] | None:
        """Forwarded."""
        return self.inner.get_mem_pool_context()

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        """Forwarded."""
        self.inner.bind_connector_metadata(connector_metadata)

    def clear_connector_metadata(self) -> None:
        """Forwarded."""
        self.inner.clear_connector_metadata()

    def has_connector_metadata(self) -> bool:
        """Forwarded."""
        return self.inner.has_connector_metadata()

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Forwarded."""
        self.inner.register_kv_caches(kv_caches)

    def set_host_xfer_buffer_ops(self, copy_operation: Any) -> None:
        """Forwarded."""
        self.inner.set_host_xfer_buffer_ops(copy_operation)

    def finish_forward(self) -> None:
        """Forwarded."""
        self.inner.finish_forward()

    def reset_capture_state(self) -> None:
        """Forwarded."""
        self.inner.reset_capture_state()

    def handle_preemptions(self, kv_connector_metadata: KVConnectorMetadata) -> None:
        """Forwarded."""
        self.inner.handle_preemptions(kv_connector_metadata)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Forwarded."""
        self.inner.start_load_kv(forward_context, **kwargs)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Forwarded."""
        self.inner.wait_for_layer_load(layer_name)

    def save_kv_layer(
        self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """Forwarded."""
        self.inner.save_kv_layer(layer_name, kv_layer, attn_metadata, **kwargs)

    def wait_for_save(self) -> None:
        """Forwarded."""
        self.inner.wait_for_save()

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """Forwarded."""
        return self.inner.get_finished(finished_req_ids)

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        """Forwarded."""
        return self.inner.get_transfer_results(finished_req_ids)

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Forwarded."""
        return self.inner.get_block_ids_with_load_errors()

    def get_kv_connector_kv_cache_events(self) -> Any:
        """Forwarded."""
        return self.inner.get_kv_connector_kv_cache_events()

    def get_handshake_metadata(self) -> KVConnectorHandshakeMetadata | None:
        """Forwarded."""
        return self.inner.get_handshake_metadata()

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        """Forwarded."""
        return self.inner.build_connector_worker_meta()

    # Both sides

    def shutdown(self) -> None:
        """Forwarded."""
        self.inner.shutdown()

    def get_kv_connector_stats(self) -> Any:
        """Forwarded."""
        return self.inner.get_kv_connector_stats()

    # The scheduler's side

    def bind_kv_cache_manager(self, kv_cache_manager: Any) -> None:
        """Forwarded."""
        self.inner.bind_kv_cache_manager(kv_cache_manager)

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        """Forwarded."""
        self.inner.bind_gpu_block_pool(gpu_block_pool)

    def get_loaded_kv_cache_group_ids(self, request: Any) -> tuple[int, ...]:
        """Forwarded."""
        return self.inner.get_loaded_kv_cache_group_ids(request)

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """Forwarded."""
        return self.inner.get_num_new_matched_tokens(request, num_computed_tokens)

    def get_external_cache_hit_sources(
        self, request: Any, num_external_tokens: int
    ) -> dict[Any, int]:
        """Forwarded."""
        return self.inner.get_external_cache_hit_sources(request, num_external_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Forwarded."""
        self.inner.update_state_after_alloc(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        """Forwarded."""
        return self.inner.build_connector_meta(scheduler_output)

    def on_new_request(self, request: Any) -> None:
        """Forwarded."""
        self.inner.on_new_request(request)

    def update_connector_output(self, connector_output: Any) -> None:
        """Forwarded."""
        self.inner.update_connector_output(connector_output)

    def request_finished(
        self, request: Any, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Forwarded."""
        return self.inner.request_finished(request, block_ids)

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Forwarded, by the name that the wrapped connector knows."""
        if isinstance(self.inner, SupportsHMA):
            return self.inner.request_finished_all_groups(request, block_ids)
        return self.inner.request_finished(request, block_ids[0])

    def register_finished_partial_tail(
        self,
        request: Any,
        block_ids: tuple[list[int], ...],
        partial_tail_offloads: list[tuple[int, int, int]],
    ) -> bool:
        """Forwarded."""
        return self.inner.register_finished_partial_tail(request, block_ids, partial_tail_offloads)

    def take_events(self) -> Iterable[Any]:
        """Forwarded."""
        return self.inner.take_events()

    def has_pending_block_frees(self) -> bool:
        """Forwarded."""
        return self.inner.has_pending_block_frees()

    def has_pending_push_work(self) -> bool:
        """Forwarded."""
        return self.inner.has_pending_push_work()

    def get_finished_count(self) -> int | None:
        """Forwarded."""
        return self.inner.get_finished_count()

    def set_xfer_handshake_metadata(
        self, metadata: dict[int, KVConnectorHandshakeMetadata]
    ) -> None:
        """Forwarded."""
        self.inner.set_xfer_handshake_metadata(metadata)

    def set_xfer_handshake_metadata_pp_aware(
        self, metadata: dict[tuple[int, int], KVConnectorHandshakeMetadata]
    ) -> None:
        """Forwarded."""
        self.inner.set_xfer_handshake_metadata_pp_aware(metadata)

    def reset_cache(self) -> bool | None:
        """Forwarded."""
        return self.inner.reset_cache()
