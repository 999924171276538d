"""What the shim takes from vLLM beyond its connector interface, with the versions it holds for.

| what | why | checked in |
|---|---|---|
| `compilation_config.static_forward_context` | the MoE layers, without the model | 0.32.0 |
| `MoERunner._quant_method` (private) | whether the kernel routes inside itself | 0.32.0 |
| `routed_experts.routing_sink`, `RoutedExpertsSink` | the ids of such kernels | 0.32.0, read only |
| `router.set_capture_fn` | the ids of all others | 0.32.0 |
| `ForwardContext.slot_mapping` | which KV slot each row of the batch is written to | 0.32.0 |
| `ForwardContext.dp_metadata` | which rows are this data-parallel rank's | 0.32.0, read only |
| request ids end in `-` and 8 hexadecimal digits | the id that the caller knows | 0.32.0 |

`routed_experts_capturer.py` in vLLM does the same bindings for its own feature.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import vllm
from vllm.config import VllmConfig
from vllm.forward_context import ForwardContext
from vllm.model_executor.layers.fused_moe.layer import MoERunner
from vllm.model_executor.layers.fused_moe.modular_kernel import FusedMoEExpertsMonolithic
from vllm.model_executor.layers.fused_moe.routed_experts_capturer import (
    RoutedExpertsCaptureSource,
    RoutedExpertsSink,
)
from vllm.model_executor.layers.fused_moe.router.base_router import BaseRouter
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig

from eldr_vllm.guard import UnsupportedError

CHECKED_VERSIONS = ("0.32",)

CaptureFn = Callable[[torch.Tensor], None]


def check_version(force: bool) -> None:
    """Raise UnsupportedError for a vLLM that was not checked, unless forced."""
    if not force and ".".join(vllm.__version__.split(".")[:2]) not in CHECKED_VERSIONS:
        raise UnsupportedError(
            f"vLLM {vllm.__version__} was not checked ({', '.join(CHECKED_VERSIONS)} was); "
            '"force": true tries it'
        )


def check_layout(config: VllmConfig, kv_cache: KVCacheConfig, force: bool) -> None:
    """Raise UnsupportedError where counts by KV slot are not known to be right.

    Forcing helps where it was only never tried, not where a slot does not stand for one token of
    one prompt in every layer.
    """
    parallel = config.parallel_config
    impossible = {
        "the KV cache has several groups (hybrid or sliding-window layers)": (
            len(kv_cache.kv_cache_groups) != 1
            or not isinstance(kv_cache.kv_cache_groups[0].kv_cache_spec, FullAttentionSpec)
        ),
        "context parallelism": (
            parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1
        ),
        "micro-batches (dual batch overlap)": parallel.use_ubatching,
    }
    unverified = {
        f"the device {config.device_config.device_type}": (
            config.device_config.device_type != "cpu"
        ),
        "data parallelism": parallel.data_parallel_size > 1,
        "pipeline parallelism": parallel.pipeline_parallel_size > 1,
        "expert parallelism": parallel.enable_expert_parallel,
        "speculative decoding": config.speculative_config is not None,
    }
    for what, found in impossible.items():
        if found:
            raise UnsupportedError(f"{what} cannot be captured")
    for what, found in unverified.items():
        if found and not force:
            raise UnsupportedError(f'{what} was not verified; "force": true tries it')


@dataclass(frozen=True, slots=True)
class MoeLayer:
    """One MoE layer of this rank: its place in the model, its geometry, and how to listen to it."""

    layer_id: int
    num_experts: int
    top_k: int
    bind: Callable[[CaptureFn], None]


def moe_layers(config: VllmConfig, force: bool) -> list[MoeLayer]:
    """The MoE layers of this rank in the model's order; dense layers are not among them.

    Raises
    ------
    UnsupportedError
        There are none, they differ in shape, or one of them cannot be listened to.
    """
    modules = config.compilation_config.static_forward_context.values()
    found = {id(m): m for m in modules if isinstance(m, MoERunner | RoutedExpertsCaptureSource)}
    layers = [_moe_layer(module, config, force) for module in found.values()]
    layers.sort(key=lambda layer: layer.layer_id)
    shapes = {(layer.num_experts, layer.top_k) for layer in layers}
    if not layers:
        raise UnsupportedError("the model has no MoE layer that vLLM knows")
    if len(shapes) > 1:
        raise UnsupportedError(f"the MoE layers differ in (experts, top_k): {sorted(shapes)}")
    if len({layer.layer_id for layer in layers}) < len(layers):
        raise UnsupportedError("several MoE layers have the same number")
    return layers


def _moe_layer(module: Any, config: VllmConfig, force: bool) -> MoeLayer:
    if not isinstance(module, MoERunner):  # a layer that hands out its ids itself
        model = config.model_config
        return MoeLayer(
            module.layer_id,
            model.get_num_experts(),
            model.get_num_experts_per_tok(),
            lambda fn: setattr(module, "capture_fn", fn),
        )
    moe, quant = module.moe_config, module._quant_method
    shape = module.layer_id, moe.num_logical_experts, moe.experts_per_token
    if not quant.is_monolithic:
        if not isinstance(module.router, BaseRouter):
            raise UnsupportedError(f"the router {type(module.router).__name__} tells no expert ids")
        return MoeLayer(*shape, module.router.set_capture_fn)
    kernel = getattr(getattr(quant, "moe_kernel", None), "impl", None)
    experts = getattr(kernel, "fused_experts", None)
    if not (
        force
        and isinstance(experts, FusedMoEExpertsMonolithic)
        and experts.supports_routing_replay_capture()
    ):
        raise UnsupportedError(
            f"the monolithic kernel {type(experts).__name__} tells no expert ids, or was not "
            'verified ("force": true tries it where it can)'
        )

    def bind_sink(fn: CaptureFn) -> None:
        module.routed_experts.routing_sink = RoutedExpertsSink(experts.moe_config, fn)

    return MoeLayer(*shape, bind_sink)


def slot_mapping(context: ForwardContext, load_kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    """The KV slot of each row of the batch, int64 [rows], -1 for padding; None without a forward.

    Model runner V1 has it in the forward context. V2 gives the attention metadata to
    `start_load_kv` instead.
    """
    slots = context.slot_mapping
    if isinstance(slots, dict) and slots:
        return next(iter(slots.values()))
    metadata = load_kwargs.get("attn_metadata")
    return next(iter(metadata.values())).slot_mapping if metadata else None
