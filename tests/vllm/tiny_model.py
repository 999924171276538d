"""A Qwen3-MoE with random weights, and a tokenizer of single bytes."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

LAYERS, EXPERTS, TOP_K, DENSE = 4, 32, 4, 1
MOE_LAYERS = LAYERS - DENSE


def build(directory: Path, seed: int = 0, dense: int = DENSE) -> Path:
    """Write the model; its first layer is dense, so that layer and MoE-layer numbers differ."""
    torch.manual_seed(seed)
    config = Qwen3MoeConfig(
        vocab_size=260,
        hidden_size=64,
        intermediate_size=128,
        moe_intermediate_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=EXPERTS,
        num_experts_per_tok=TOP_K,
        norm_topk_prob=True,
        mlp_only_layers=list(range(dense)),
        max_position_embeddings=2048,
        initializer_range=0.2,
        bos_token_id=256,
        eos_token_id=257,
    )
    model = Qwen3MoeForCausalLM(config).to(torch.float32)
    model.save_pretrained(directory)
    save_tokenizer(directory)
    return directory


def save_tokenizer(directory: Path) -> None:
    """Of single bytes, and two that begin and end a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(alphabet)}
    vocabulary |= {"<bos>": 256, "<eos>": 257}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>"
    ).save_pretrained(directory)
