"""The KV cache group that signatures are indexed by: scheduler and workers must agree on it."""

from dataclasses import dataclass
from typing import Any

from vllm.config import VllmConfig
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig

from eldr_vllm.guard import UnsupportedError


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """A group whose blocks hold every token of a request, one per slot, for as long as it lives.

    Attributes
    ----------
    index : int
        Its index among the KV cache's groups.
    block_size : int
        Tokens per block. Other groups may have other block sizes.
    layer : str
        The name of one of its attention layers.
    """

    index: int
    block_size: int
    layer: str


def attention_group(config: VllmConfig, kv_cache: KVCacheConfig) -> AttentionGroup:
    """The first group of full attention, MLA included.

    Sliding-window, chunked and Mamba groups release blocks while a request runs, so their slots
    cannot identify a prompt's experts.

    Raises
    ------
    UnsupportedError
        There is no such group, or a slot is not for one token.
    """
    parallel = config.parallel_config
    if parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1:
        raise UnsupportedError(
            "context parallelism gives each rank only a share of every prompt's KV slots, and the "
            "experts of the other tokens are not seen here"
        )
    for index, group in enumerate(kv_cache.kv_cache_groups):
        # Workers may get a group's specs per layer.
        specs = getattr(group.kv_cache_spec, "kv_cache_specs", None)
        specs = list(specs.values()) if specs else [group.kv_cache_spec]
        drafts = getattr(group, "is_eagle_group", False)
        if not drafts and all(map(_is_one_token_per_slot, specs)):
            return AttentionGroup(index, specs[0].block_size, group.layer_names[0])
    kinds = sorted({type(group.kv_cache_spec).__name__ for group in kv_cache.kv_cache_groups})
    raise UnsupportedError(
        f"no layer of the model keeps all of a prompt's tokens, each in its own KV slot "
        f"({', '.join(kinds) or 'no KV cache'})"
    )


def _is_one_token_per_slot(spec: Any) -> bool:
    """Full attention whose slots are not compressed from several tokens, as in DeepSeek-V4."""
    tokens = getattr(spec, "tokens_per_state", getattr(spec, "compress_ratio", 1))
    return isinstance(spec, FullAttentionSpec) and tokens == 1
