"""What a decode step reads outside the routed experts, from a model's public configuration."""

import json
from collections import Counter
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

BYTES = 2  # bfloat16
# Layer norms, and norms of queries and keys, per layer, as in vLLM's and transformers' models.
NORMS = {"qwen3_moe": (2, 1), "gpt_oss": (2, 0), "gemma4_text": (7, 1)}


@dataclass(frozen=True)
class Attention:
    """Layers of one kind: their share of all, KV bytes per token, most tokens attended to."""

    share: float
    kv_bytes: int
    window: int | None


@dataclass(frozen=True)
class ModelSizes:
    """A model's layers, its weights in bytes (mean over layers), its norms per layer."""

    layers: int
    _: KW_ONLY
    attention: tuple[Attention, ...]
    layer_bytes: float  # attention's matrices, the router's, a dense MLP beside the experts
    head_bytes: int
    vocabulary: int
    layer_norms: int
    qk_norms: int


def model_sizes(path: Path) -> ModelSizes:
    """Read a `config.json`; KeyError if the model's type is not in `NORMS`."""
    config = json.loads(path.read_text("utf-8"))
    config = config.get("text_config", config)
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    kinds = Counter(config.get("layer_types", ["full_attention"] * layers))
    beside = hidden * config.get("num_experts", config.get("num_local_experts"))
    if config.get("enable_moe_block"):
        beside += 3 * hidden * config["intermediate_size"]
    attention = {kind: _attention(config, kind, number / layers) for kind, number in kinds.items()}
    weights = sum(n / layers * _projections(config, kind) for kind, n in kinds.items())
    layer_norms, qk_norms = NORMS[config["model_type"]]
    return ModelSizes(
        layers,
        attention=tuple(attention.values()),
        layer_bytes=BYTES * (weights + beside),
        head_bytes=BYTES * hidden * config["vocab_size"],
        vocabulary=config["vocab_size"],
        layer_norms=layer_norms,
        qk_norms=qk_norms,
    )


def _heads(config: dict[str, Any], kind: str) -> tuple[int, int]:
    """Number of key-value heads and head size; Gemma's global layers have their own."""
    heads, width = config["num_key_value_heads"], config["head_dim"]
    if kind == "full_attention":
        heads = config.get("num_global_key_value_heads", heads)
        width = config.get("global_head_dim", width)
    return heads, width


def _attention(config: dict[str, Any], kind: str, share: float) -> Attention:
    heads, width = _heads(config, kind)
    window = config["sliding_window"] if kind == "sliding_attention" else None
    return Attention(share, 2 * BYTES * heads * width, window)


def _projections(config: dict[str, Any], kind: str) -> int:
    """Number of weights of the query, key, value and output projections."""
    heads, width = _heads(config, kind)
    columns = 2 * (config["num_attention_heads"] + heads) * width
    return int(config["hidden_size"] * columns)
