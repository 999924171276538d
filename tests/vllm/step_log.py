"""A connector without any transfer that logs which experts each token of each step picked.

It goes by the model runner's own order of requests, never by KV slots or blocks, and reads what the
routers return, never what vLLM's capture tells: so it shares nothing with what it is held against.
"""

import gc
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.distributed.parallel_state import get_tp_group
from vllm.model_executor.layers.fused_moe.layer import MoERunner

if os.environ.get("ELDR_CPU_COLLECTIVES"):
    import cpu_collectives

    cpu_collectives.complete()


@dataclass
class Scheduled(KVConnectorMetadata):
    """{request: (tokens before, tokens in this step, draft tokens that end them)}."""

    requests: dict


class StepLog(KVConnectorBase_V1, SupportsHMA):
    """Writes to the folder `log` of its configuration, a file per rank.

    Each entry is (request, tokens before, drafts, experts [tokens, layers, top_k]). Beside it
    stands which model runner the rank has.
    """

    def __init__(self, vllm_config, role, kv_cache_config):
        super().__init__(vllm_config, role, kv_cache_config)
        if role is KVConnectorRole.WORKER and get_tp_group().rank_in_group == 0:
            folder = Path(vllm_config.kv_transfer_config.kv_connector_extra_config["log"])
            self.log = (folder / f"{os.getpid()}.pickle").open("wb")
            runner = "V2" if getattr(vllm_config, "use_v2_model_runner", False) else "V1"
            (folder / f"{os.getpid()}.runner").write_text(runner)
        self.experts, self.order = {}, None

    # Scheduler

    def get_num_new_matched_tokens(self, request, num_computed_tokens):
        return 0, False

    def update_state_after_alloc(self, request, blocks, num_external_tokens):
        pass

    def build_connector_meta(self, output):
        before = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        cached = output.scheduled_cached_reqs
        before |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        drafts = output.scheduled_spec_decode_tokens
        return Scheduled(
            {
                name: (before[name], count, list(drafts.get(name, ())))
                for name, count in output.num_scheduled_tokens.items()
            }
        )

    def request_finished_all_groups(self, request, block_ids):
        return False, None

    # Worker

    def register_kv_caches(self, kv_caches):
        self.runner = next(
            thing for thing in gc.get_objects() if type(thing).__name__.endswith("ModelRunner")
        )
        layers = [module for module in self.runner.model.modules() if isinstance(module, MoERunner)]
        self.num_layers = len(layers)
        for index, layer in enumerate(sorted(layers, key=lambda layer: layer.layer_id)):
            self._listen(index, layer.router)

    def _listen(self, index, router):
        compute = router._compute_routing

        def listening(*args, **kwargs):
            weights, ids = compute(*args, **kwargs)
            self.experts[index] = ids.detach().clone().numpy()
            return weights, ids

        router._compute_routing = listening

    def start_load_kv(self, forward_context, **kwargs):
        self.order = kwargs.get("request_ids")  # Model Runner V2 says it here

    def wait_for_save(self):
        scheduled = self._get_connector_metadata().requests
        if not scheduled or not hasattr(self, "log"):
            return
        order = self.order or list(self.runner.input_batch.req_ids)
        experts = np.stack([self.experts.pop(index) for index in range(self.num_layers)], axis=1)
        start = 0
        for request in (name for name in order if name in scheduled):
            before, count, drafts = scheduled[request]
            rows = experts[start : start + count]
            pickle.dump((request, before, drafts, rows), self.log)
            start += count
        self.log.flush()

    def wait_for_layer_load(self, layer_name):
        pass

    def save_kv_layer(self, layer_name, kv_layer, attn_metadata, **kwargs):
        pass
