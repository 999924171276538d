"""A KV connector without transfers that logs what the routers return, in graphs too.

It fills its own buffer from what each router's `_compute_routing` returns (the shim listens after
that), and finds a request's rows by the model runner's order of requests (the shim uses KV slots).
It logs only while its folder has the file `on`, as logging waits for the device.
"""

import gc
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.model_executor.layers.fused_moe.layer import MoERunner

PADDING_ROWS = 1_024


@dataclass
class Scheduled(KVConnectorMetadata):
    """{request: (tokens computed before, tokens in this step)}."""

    requests: dict[str, tuple[int, int]]


class LogConnector(KVConnectorBase_V1, SupportsHMA):
    """Writes `log.pickle`: (request, tokens before, experts [tokens, layers, top_k]), …"""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        extra = vllm_config.kv_transfer_config.kv_connector_extra_config
        self._folder = Path(extra["log"])
        self._order: list[str] | None = None

    # Scheduler

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> Any:
        return 0, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        pass

    def build_connector_meta(self, scheduler_output: Any) -> Scheduled:
        new, cached = scheduler_output.scheduled_new_reqs, scheduler_output.scheduled_cached_reqs
        before = {request.req_id: request.num_computed_tokens for request in new}
        before |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        counts = scheduler_output.num_scheduled_tokens
        return Scheduled({name: (before[name], count) for name, count in counts.items()})

    def request_finished_all_groups(self, request: Any, block_ids: Any) -> Any:
        return False, None

    # Worker

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        """Called before any graph is captured."""
        config = self._vllm_config
        modules = config.compilation_config.static_forward_context.values()
        layers = sorted(
            (module for module in modules if isinstance(module, MoERunner)),
            key=lambda layer: layer.layer_id,
        )
        rows = config.scheduler_config.max_num_batched_tokens + PADDING_ROWS
        shape = rows, len(layers), config.model_config.get_num_experts_per_tok()
        device = torch.device(config.device_config.device)
        self._buffer = torch.full(shape, -1, dtype=torch.int32, device=device)
        for index, layer in enumerate(layers):
            self._listen(index, layer.router)
        self._runner = next(
            thing for thing in gc.get_objects() if type(thing).__name__.endswith("ModelRunner")
        )
        self._log = (self._folder / "log.pickle").open("ab")

    def _listen(self, index: int, router: Any) -> None:
        compute = router._compute_routing

        def listening(*args: Any, **kwargs: Any) -> Any:
            weights, ids = compute(*args, **kwargs)
            self._buffer[: len(ids), index].copy_(ids)
            return weights, ids

        router._compute_routing = listening

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        self._order = kwargs.get("request_ids")  # Model Runner V2 gives it here

    def wait_for_save(self) -> None:
        """Called when the step has been submitted."""
        scheduled = self._get_connector_metadata().requests
        if not scheduled or not (self._folder / "on").exists():
            return
        order = self._order if self._order is not None else self._runner.input_batch.req_ids
        experts = self._buffer[: sum(count for _, count in scheduled.values())].cpu().numpy()
        start = 0
        for request in (name for name in order if name in scheduled):
            before, count = scheduled[request]
            pickle.dump((request, before, experts[start : start + count].copy()), self._log)
            start += count
        self._log.flush()

    def wait_for_layer_load(self, layer_name: str) -> None:
        pass

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kw: Any) -> None:
        pass
