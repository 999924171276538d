"""A connector without any transfer, which logs on its own what every forward pass computed.

It wraps each router's `_compute_routing` (the shim sets its capture function instead), finds the
(block, offset) of each row by the attention metadata (the shim goes by the slot mapping), keeps the
latest experts of each, and writes down, for every prompt that ends in a step, the sum over the very
(block, offset) that hold it. What a connector fills from outside has no experts. Of requests that
carry a booking it writes down each token of the answer that is computed.
"""

import pickle
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.distributed.parallel_state import get_pp_group, get_tp_group
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.fused_moe.layer import MoERunner


@dataclass
class Ended(KVConnectorMetadata):
    """Prompts that end in this step: {request: (blocks, prompt tokens)}; blocks filled before.

    `answers` are the tokens of answers computed in it: (booking, request, position, block, offset).
    `breaks` breaks the shim in the workers.
    """

    prompts: dict
    filled: list
    answers: list
    breaks: bool


class OracleConnector(KVConnectorBase_V1, SupportsHMA):
    def __init__(self, vllm_config, role, kv_cache_config):
        super().__init__(vllm_config, role, kv_cache_config)
        extra = vllm_config.kv_transfer_config.kv_connector_extra_config
        self.block_size = vllm_config.cache_config.block_size
        self.prompt_tokens, self.ended, self.filled, self.booked = {}, set(), [], {}
        self.breaks = False
        if role is KVConnectorRole.WORKER:
            self.state, self.rows = {}, {}
            # Tensor-parallel ranks see the same, pipeline ranks have layers of their own.
            name = f"{get_pp_group().rank_in_group}-{get_tp_group().rank_in_group}"
            self.log = (Path(extra["log"]) / name).open("wb")
            self.answers = (Path(extra["log"]) / f"answers-{name}").open("wb")
            self.num_experts = vllm_config.model_config.get_num_experts()

    # Scheduler

    def on_new_request(self, request):
        self.prompt_tokens[request.request_id] = request.num_prompt_tokens
        if "lease_id" in (request.kv_transfer_params.get("eldr") or {}):
            self.booked[request.request_id] = request.kv_transfer_params["eldr"]["request_id"]
        if request.kv_transfer_params.get("break") == "scheduler":
            # Not above: that loads Numba in every process, in which a forked worker cannot start.
            from eldr_vllm.scheduler.prefill import PrefillSide

            PrefillSide.plan = None
        self.breaks |= request.kv_transfer_params.get("break") == "worker"

    def get_num_new_matched_tokens(self, request, num_computed_tokens):
        """`fill` of kv_transfer_params tokens are said to come from outside."""
        whole = (request.num_prompt_tokens - 1) // self.block_size * self.block_size
        fill = min(request.kv_transfer_params.get("fill", 0), whole)
        return max(fill - num_computed_tokens, 0), False

    def update_state_after_alloc(self, request, blocks, num_external_tokens):
        if num_external_tokens:
            end = request.kv_transfer_params["fill"] // self.block_size
            whole = (request.num_prompt_tokens - 1) // self.block_size
            end = min(end, whole)
            start = end - num_external_tokens // self.block_size
            self.filled += blocks.get_block_ids()[0][start:end]

    def build_connector_meta(self, output):
        before = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        cached = output.scheduled_cached_reqs
        before |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        prompts, answers = {}, []
        for name, count in output.num_scheduled_tokens.items():
            tokens = self.prompt_tokens[name]
            if name in self.booked:
                blocks = output.kv_connector_block_state.resolve_block_ids(name)[0]
                for position in range(max(before[name], tokens), before[name] + count):
                    block, offset = divmod(position, self.block_size)
                    answers.append((self.booked[name], name, position, blocks[block], offset))
            if before[name] + count >= tokens and name not in self.ended:
                self.ended.add(name)
                blocks = output.kv_connector_block_state.resolve_block_ids(name)[0]
                prompts[name] = list(blocks), tokens
        filled, self.filled = self.filled, []
        return Ended(prompts, filled, answers, self.breaks)

    # Worker

    def register_kv_caches(self, kv_caches):
        modules = self._vllm_config.compilation_config.static_forward_context.values()
        runners = [module for module in modules if isinstance(module, MoERunner)]
        for index, runner in enumerate(sorted(runners, key=lambda runner: runner.layer_id)):
            self._listen(index, runner.router)
        self.num_layers = len(runners)

    def _listen(self, index, router):
        compute = router._compute_routing

        def listening(*args, **kwargs):
            weights, ids = compute(*args, **kwargs)
            self.rows[index] = ids.clone().numpy()
            return weights, ids

        router._compute_routing = listening

    def start_load_kv(self, forward_context, **kwargs):
        pass

    def wait_for_save(self):
        metadata = self._get_connector_metadata()
        if metadata.breaks:
            from eldr_vllm.worker.side import WorkerSide

            WorkerSide.finish = None
        attention = next(iter((get_forward_context().attn_metadata or {}).values()), None)
        for block in metadata.filled:
            for offset in range(self.block_size):
                self.state.pop((block, offset), None)
        if attention is not None:
            self._take(attention)
        for name, (blocks, tokens) in metadata.prompts.items():
            pickle.dump((name, *self._sum(blocks, tokens)), self.log)
        for *token, block, offset in metadata.answers:
            pickle.dump((*token, self.state[block, offset]), self.answers)
        self.log.flush()
        self.answers.flush()

    def _take(self, attention):
        experts = np.stack([self.rows[index] for index in range(self.num_layers)], axis=1)
        starts = attention.query_start_loc.tolist()
        for request, (start, end) in enumerate(pairwise(starts)):
            first = int(attention.seq_lens[request]) - (end - start)
            for row in range(start, end):
                position = first + row - start
                block = int(attention.block_table[request, position // self.block_size])
                self.state[block, position % self.block_size] = experts[row]

    def _sum(self, blocks, tokens):
        counts = np.zeros((self.num_layers, self.num_experts), np.int64)
        known = 0
        for position in range(tokens):
            place = blocks[position // self.block_size], position % self.block_size
            if place in self.state:
                known += 1
                for layer, picks in enumerate(self.state[place]):
                    counts[layer, picks] += 1
        return counts, known, tokens - known

    def wait_for_layer_load(self, layer_name):
        pass

    def save_kv_layer(self, layer_name, kv_layer, attn_metadata, **kwargs):
        pass

    def request_finished_all_groups(self, request, block_ids):
        return False, None
