"""Activation counts of the prompts that a batch ends, from SGLang's capture of routed experts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from eldr_client import Counts, RouterClient
from numpy.typing import NDArray

# These load KV slots from outside: the capture of such a slot is still its previous request's.
_FROM_OUTSIDE = (
    "enable_hierarchical_cache",
    "enable_lmcache",
    "enable_flexkv",
    "enable_unified_cache_external_linker",
)


class UnsupportedError(Exception):
    """This server's capture is not reliable; the message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Prefilled:
    """A request whose prompt has passed the model.

    Attributes
    ----------
    request_id : str
        SGLang's `rid`.
    epoch : int
        Number of this attempt of its prefill.
    counts : Counts
        Of all prompt tokens, including a cached prefix.
    """

    request_id: str
    epoch: int
    counts: Counts

    def register(self, client: RouterClient, model: str) -> None:
        """Register the signature at the daemon."""
        client.register_signature(
            model,
            self.request_id,
            self.counts,
            epoch=self.epoch,
            prompt_tokens=self.counts.num_tokens or 0,
        )


class Prefills:
    """Reads counts from the capturer of a scheduler's process.

    Raises
    ------
    UnsupportedError
        Nothing is captured here, or the capture may belong to other requests' tokens.
    """

    def __init__(self, scheduler: Any) -> None:
        from sglang.srt.layers.moe.topk import TopK
        from sglang.srt.runtime_context import get_parallel
        from sglang.srt.state_capturer.routed_experts import get_global_experts_capturer

        arguments = scheduler.server_args
        for name in _FROM_OUTSIDE:
            if getattr(arguments, name, False):
                raise UnsupportedError(
                    f"with {name} SGLang's capture holds another request's experts for tokens whose"
                    " KV cache is loaded"
                )
        capturer = get_global_experts_capturer()
        if capturer is None:
            raise UnsupportedError("expected --enable-return-routed-experts")
        self.is_first_rank = get_parallel().attn_tp_rank == 0
        self._capturer = capturer
        self._pool = scheduler.req_to_token_pool
        model = scheduler.tp_worker.model_runner.model
        self._layers = sorted(
            module.layer_id
            for module in model.modules()
            if isinstance(module, TopK) and module.topk_config.allow_routed_experts_capture
        )
        if not self._layers:
            raise UnsupportedError("the model has no MoE layer whose experts SGLang captures")
        self._experts = _num_experts(scheduler.model_config)

    def ended(self, batch: Any) -> Iterator[Prefilled]:
        """Yield the batch's requests whose prompts are complete."""
        for request in batch.reqs:
            if not request.output_ids or request.to_finish or request.finished_reason:
                continue
            prompt = len(request.origin_input_ids)
            # All but the last of `seqlen` tokens: those of the prompt.
            picks = self._capturer.get_topk(
                req_pool_idx=request.kv.req_pool_idx,
                seqlen=prompt + 1,
                req_to_token_pool=self._pool,
            )
            experts = picks.numpy()[:, self._layers]
            yield Prefilled(
                request.rid, request.prefill_attempt_count, counted(experts, self._experts)
            )


def counted(experts: NDArray[np.integer], num_experts: int) -> Counts:
    """Activation counts from the tokens' experts, shape [tokens, layers, top_k]."""
    tokens, layers, top_k = experts.shape
    picks = experts + np.arange(layers)[:, None] * num_experts
    counts = np.bincount(picks.ravel(), minlength=layers * num_experts)
    return Counts(counts.reshape(layers, num_experts), top_k, num_tokens=tokens)


def _num_experts(config: Any) -> int:
    from sglang.srt.eplb.expert_location import ModelConfigForExpertLocation

    found = ModelConfigForExpertLocation.from_model_config(config)
    if found is None:
        raise UnsupportedError(
            f"SGLang does not say how many experts {config.hf_config.architectures} has per layer"
        )
    return int(found.num_logical_experts)
