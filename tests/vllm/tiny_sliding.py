"""A gpt-oss of random weights: every other layer sees 64 tokens, so its KV cache has two groups."""

import json
from pathlib import Path

from tiny_model import save_tokenizer
from transformers import GptOssConfig


def build(directory: Path) -> Path:
    """Write the configuration; the weights are vLLM's (`load_format` dummy)."""
    config = GptOssConfig(
        vocab_size=260,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_local_experts=16,
        num_experts_per_tok=4,
        sliding_window=64,
        max_position_embeddings=2048,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=257,
    )
    directory.mkdir(parents=True, exist_ok=True)
    said = {**config.to_dict(), "architectures": ["GptOssForCausalLM"], "dtype": "bfloat16"}
    (directory / "config.json").write_text(json.dumps(said))
    save_tokenizer(directory)
    return directory
