"""Which KV cache group signatures go by: scheduler and workers must choose the same."""

from dataclasses import dataclass
from typing import Any

from vllm.config import VllmConfig
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig

from eldr_vllm.guard import UnsupportedError


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """A group whose blocks hold every token of a request, each in one slot, as long as it lives.

    Attributes
    ----------
    index : int
        Its place among the KV cache's groups.
    block_size : int
        Tokens per block. Other groups may have other sizes.
    layer : str
        One of its attention layers, by name.
    """

    index: int
    block_size: int
    layer: str


def attention_group(config: VllmConfig, kv_cache: KVCacheConfig) -> AttentionGroup:
    """The first group of full attention, MLA included.

    Sliding-window, chunked and Mamba groups give blocks back while a request runs, so a prompt's
    experts cannot be found by their slots.

    Raises
    ------
    UnsupportedError
        There is no such group, or a slot is not one token's.
    """
    parallel = config.parallel_config
    if parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1:
        raise UnsupportedError(
            "context parallelism gives each rank a share of every prompt's KV slots, and the "
            "experts of the others' tokens are not seen here"
        )
    for index, group in enumerate(kv_cache.kv_cache_groups):
        # Workers may have the specs of a group layer by layer.
        specs = getattr(group.kv_cache_spec, "kv_cache_specs", None)
        specs = list(specs.values()) if specs else [group.kv_cache_spec]
        drafts = getattr(group, "is_eagle_group", False)
        if not drafts and all(map(_is_one_token_per_slot, specs)):
            return AttentionGroup(index, specs[0].block_size, group.layer_names[0])
    kinds = sorted({type(group.kv_cache_spec).__name__ for group in kv_cache.kv_cache_groups})
    raise UnsupportedError(
        f"no layer of the model keeps a whole prompt's tokens, each in a KV slot of its own "
        f"({', '.join(kinds) or 'no KV cache'})"
    )


def _is_one_token_per_slot(spec: Any) -> bool:
    """Full attention whose slots are not compressed from several tokens, as DeepSeek-V4's are."""
    tokens = getattr(spec, "tokens_per_state", getattr(spec, "compress_ratio", 1))
    return isinstance(spec, FullAttentionSpec) and tokens == 1
