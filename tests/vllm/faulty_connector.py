"""The oracle's connector, which can spoil what the shim's capture is given; the log stays true."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from oracle_connector import Ended, OracleConnector
from vllm.model_executor.layers.fused_moe.layer import MoERunner


@dataclass
class Faulty(Ended):
    """`fault` is what goes wrong in this step."""

    fault: str = field(default="")


class FaultyConnector(OracleConnector):
    """A fault for one step, if one of its requests says so; for all, if the configuration does.

    With `begins`, the latter once a file of that name exists.
    """

    def __init__(self, vllm_config, role, kv_cache_config):
        super().__init__(vllm_config, role, kv_cache_config)
        extra = vllm_config.kv_transfer_config.kv_connector_extra_config
        self.always, self.begins = extra.get("fault", ""), extra.get("begins")
        self.fault = "" if self.begins else self.always
        self.faults, self.first = {}, {}

    def on_new_request(self, request):
        request.kv_transfer_params = request.kv_transfer_params or {}
        super().on_new_request(request)
        self.faults[request.request_id] = request.kv_transfer_params.get("fault", "")

    def build_connector_meta(self, output):
        ended = super().build_connector_meta(output)
        faults = [self.faults[name] for name in output.num_scheduled_tokens]
        always = self.always if not self.begins or Path(self.begins).exists() else ""
        return Faulty(**vars(ended), fault=always or next(filter(None, faults), ""))

    def bind_connector_metadata(self, metadata):
        super().bind_connector_metadata(metadata)
        self.fault = metadata.fault

    def register_kv_caches(self, kv_caches):
        super().register_kv_caches(kv_caches)
        modules = self._vllm_config.compilation_config.static_forward_context.values()
        runners = [module for module in modules if isinstance(module, MoERunner)]
        for index, runner in enumerate(sorted(runners, key=lambda runner: runner.layer_id)):
            self._spoil(index, runner.router)

    def _spoil(self, index, router):
        bind = router.set_capture_fn

        def bind_spoiled(capture):
            bind(lambda ids: self._pass_on(index, ids, capture))

        router.set_capture_fn = bind_spoiled

    def _pass_on(self, index, ids, capture):
        if self.fault == "skip" and index == 1:
            return  # one layer writes nothing
        if self.fault == "stale":
            return  # a replayed graph that does not hold the copies
        if self.fault == "physical":
            ids = torch.where(ids % 3 == 0, ids + self.num_experts, ids)  # replicas have own ids
        elif self.fault == "repeated":
            ids = ids[:, :1].expand_as(ids)
        elif self.fault == "permuted":
            ids = ids.flip(0)
        elif self.fault == "slice":  # the rows of another rank, which computed something else
            other = self.first.setdefault(index, ids.clone())
            ids = other.repeat(len(ids) // len(other) + 1, 1)[: len(ids)]
        capture(ids)
