"""The MoE layers of this rank, and how vLLM lets them be captured.

| used of vLLM beside its connector interface | why |
|---|---|
| `compilation_config.static_forward_context` | the layers, without the model |
| `MoERunner`, `RoutedExpertsCaptureSource` | what an MoE layer is |
| `bind_routed_experts_capturer`, `RoutedExpertsCapturer.capture` | routers, sinks of monolithic \
kernels, row layouts under data and sequence parallelism: each version knows its own |

The same from 0.30 to 0.33. Changes in other versions are caught by the checks of every step.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.model_executor.layers.fused_moe import routed_experts_capturer as theirs
from vllm.model_executor.layers.fused_moe.layer import MoERunner

from eldr_vllm.guard import UnsupportedError

logger = logging.getLogger("vllm.eldr")  # appears in vLLM's log


@dataclass(frozen=True, slots=True)
class MoeLayers:
    """The MoE layers in the model's order, without dense layers and those of a draft model.

    Attributes
    ----------
    modules : sequence of vLLM's layers
    num_experts : int
        Per layer; logical experts, without shared ones.
    num_ids : int
        Ids are below it: replicas of experts have their own ids.
    top_k : int
    """

    modules: Sequence[Any]
    num_experts: int
    num_ids: int
    top_k: int

    def __len__(self) -> int:
        return len(self.modules)

    def listen(self, buffer: torch.Tensor, config: VllmConfig) -> None:
        """Make every forward pass write its expert ids to `buffer` [rows, layers, top_k].

        Call it before anything is compiled into a CUDA graph.

        Raises
        ------
        UnsupportedError
            A layer gives no ids; in vLLM's words.
        """
        model = SimpleNamespace(modules=lambda: self.modules)
        places = {module.layer_id: index for index, module in enumerate(self.modules)}
        try:
            theirs.bind_routed_experts_capturer(model, _Capturer(buffer, places, config))
        except ValueError as error:
            raise UnsupportedError(f"{error} Another --moe-backend may give them") from error


class _Capturer(theirs.RoutedExpertsCapturer):
    """vLLM's own capturer with our buffer, whose second dimension has only the MoE layers."""

    def __init__(self, buffer: torch.Tensor, places: dict[int, int], config: VllmConfig) -> None:
        # Not super's: it would allocate a buffer for all layers.
        self.device_buffer = buffer
        self.dp_rank = config.parallel_config.data_parallel_rank
        self.tp_size = config.parallel_config.tensor_parallel_size
        self._places = places
        self._has_failed = False

    def capture(self, layer_id: int, topk_ids: torch.Tensor) -> None:
        """Called in the forward pass, on every rank, as long as the process lives.

        With sequence parallelism it is a collective, so it must not stop on one rank alone. What it
        fails to write is missing in the buffer.
        """
        try:
            super().capture(self._places[layer_id], topk_ids)
        except Exception:  # vLLM's forward pass must not fail; the step's check finds the gap
            if not self._has_failed:
                logger.exception("ELDR cannot read the experts of layer %d", layer_id)
            self._has_failed = True


def moe_layers(config: VllmConfig) -> MoeLayers:
    """The MoE layers of this rank.

    Raises
    ------
    UnsupportedError
        There are none, they differ in shape, or their ids do not identify what they read.
    """
    model, parallel = config.model_config, config.parallel_config
    if getattr(model, "enable_return_routed_experts", False) or getattr(
        getattr(config, "aux_output_config", None), "enable_return_routed_experts", False
    ):
        raise UnsupportedError("--enable-return-routed-experts captures the same layers")
    if getattr(model.hf_text_config, "zero_expert_num", 0):
        raise UnsupportedError("vLLM reports experts that compute nothing as expert 0")
    if parallel.use_ubatching and not hasattr(theirs, "dbo_current_ubatch_token_offset"):
        raise UnsupportedError(
            "dual batch overlap (--enable-dbo): before 0.33 vLLM does not tell apart the two "
            "halves of a batch"
        )
    modules = config.compilation_config.static_forward_context.values()
    kinds = (MoERunner, theirs.RoutedExpertsCaptureSource)
    drafts = model.get_total_num_hidden_layers()  # a draft model's layers are numbered from here
    found = {id(m): m for m in modules if isinstance(m, kinds) and m.layer_id < drafts}
    layers = sorted(found.values(), key=lambda module: module.layer_id)
    if not layers:
        raise UnsupportedError("the model has no MoE layer known to vLLM")
    shapes = {_shape(module, model) for module in layers}
    if len(shapes) > 1:
        raise UnsupportedError(f"the MoE layers differ in (experts, top_k): {sorted(shapes)}")
    if len({module.layer_id for module in layers}) < len(layers):
        raise UnsupportedError("several MoE layers have the same number")
    ((num_experts, top_k),) = shapes
    redundant = parallel.eplb_config.num_redundant_experts if parallel.enable_eplb else 0
    return MoeLayers(layers, num_experts, num_experts + redundant, top_k)


def _shape(module: Any, model: Any) -> tuple[int, int]:
    if not isinstance(module, MoERunner):  # a layer that gives its own ids
        return model.get_num_experts(), model.get_num_experts_per_tok()
    return module.moe_config.num_logical_experts, module.moe_config.experts_per_token
