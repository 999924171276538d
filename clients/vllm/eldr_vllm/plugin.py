"""What must happen before vLLM builds a model; vLLM loads it in each of its processes.

On a CPU vLLM compiles an MoE layer together with the code around it, before there is a connector:
the layer could then not be captured. On other devices the layer is a separate operator, which a
compiled model calls. This makes it one on a CPU too, for engines with our connector.
"""

import logging
from typing import Any

from eldr_vllm import inside

logger = logging.getLogger("vllm.eldr")  # appears in vLLM's log


def load() -> None:
    """Called by vLLM, possibly more than once."""
    try:
        inside.show()
    except (ImportError, AttributeError) as error:
        logger.info("vLLM does not see the connector inside ELDR's: %s", error)
    try:
        from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
        from vllm.platforms import current_platform

        select = MoERunner._select_forward
    except (ImportError, AttributeError) as error:
        logger.info("ELDR leaves vLLM's MoE layers as they are: %s", error)
        return
    if current_platform.is_cpu() and not hasattr(select, "before_eldr"):
        MoERunner._select_forward = _apart_from_the_graph(select)


def _apart_from_the_graph(select: Any) -> Any:
    import torch
    from vllm.config import get_current_vllm_config

    def select_forward(runner: Any) -> Any:
        if not is_ours(get_current_vllm_config().kv_transfer_config):
            return select(runner)
        shared = runner._shared_experts is not None
        return torch.ops.vllm.moe_forward_shared if shared else torch.ops.vllm.moe_forward

    select_forward.before_eldr = select
    return select_forward


def is_ours(transfer: Any) -> bool:
    """Whether a KVTransferConfig names one of our connectors, or one of its children is ours."""
    if transfer is None:
        return False
    children = (transfer.kv_connector_extra_config or {}).get("connectors", ())
    modules = [transfer.kv_connector_module_path]
    modules += [child.get("kv_connector_module_path") for child in children]
    return any((module or "").startswith("eldr_vllm.") for module in modules)
