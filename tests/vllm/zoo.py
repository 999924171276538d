"""Tiny configurations of MoE architectures, for vLLM to start with random weights.

`build(name, directory)` writes the configuration and a tokenizer of single bytes. Each row is what
tells the architecture from others; sizes that they share stand once.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHARED = {
    "vocab_size": 260,
    "hidden_size": 128,
    "max_position_embeddings": 2048,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 257,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
}
DENSE_FIRST = {"intermediate_size": 256, "moe_intermediate_size": 64, "first_k_dense_replace": 1}
OF_16 = {"num_experts": 16, "num_experts_per_tok": 4}
OF_16_ROUTED = {"n_routed_experts": 16, "n_shared_experts": 1, "num_experts_per_tok": 4}
OF_8_LOCAL = {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 64}
ONE_GROUP = {"n_group": 1, "topk_group": 1}
FOUR_GROUPS = {"n_group": 4, "topk_group": 2}
MLA = {
    "num_key_value_heads": 4,
    "q_lora_rank": 64,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
}
SHARED_EXPERT = {"moe_intermediate_size": 64, "shared_expert_intermediate_size": 64}
DEEPSEEK_ROUTING = {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "moe_layer_freq": 1}


@dataclass(frozen=True)
class Architecture:
    """An architecture of vLLM's and the class of its configuration in transformers.

    `own` goes to the configuration's constructor, `written` into the file as it is.
    """

    name: str
    config: str
    own: dict[str, Any]
    written: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"


ARCHITECTURES = {
    "qwen3_moe": Architecture(
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {
            "head_dim": 32,
            "intermediate_size": 256,
            "moe_intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_experts": 32,
            "num_experts_per_tok": 4,
            "norm_topk_prob": True,
            "mlp_only_layers": [0],
        },
    ),
    "qwen2_moe": Architecture(
        "Qwen2MoeForCausalLM", "Qwen2MoeConfig", {"intermediate_size": 256} | SHARED_EXPERT | OF_16
    ),
    "mixtral": Architecture(
        "MixtralForCausalLM", "MixtralConfig", OF_8_LOCAL | {"sliding_window": None}
    ),
    "mixtral_sliding": Architecture(
        "MixtralForCausalLM", "MixtralConfig", OF_8_LOCAL | {"sliding_window": 64}
    ),
    "olmoe": Architecture("OlmoeForCausalLM", "OlmoeConfig", {"intermediate_size": 64} | OF_16),
    "deepseek_v2": Architecture(
        "DeepseekV2ForCausalLM",
        "DeepseekV2Config",
        DENSE_FIRST
        | OF_16_ROUTED
        | ONE_GROUP
        | MLA
        | {"q_lora_rank": None}
        | {"topk_method": "greedy"},
    ),
    "deepseek_v3": Architecture(
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        DENSE_FIRST | OF_16_ROUTED | FOUR_GROUPS | MLA,
        DEEPSEEK_ROUTING,
    ),
    "deepseek_v3_mtp": Architecture(
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        DENSE_FIRST | OF_16_ROUTED | FOUR_GROUPS | MLA,
        DEEPSEEK_ROUTING | {"num_nextn_predict_layers": 1},
    ),
    "deepseek_v32": Architecture(
        "DeepseekV32ForCausalLM",
        "DeepseekV32Config",
        DENSE_FIRST
        | OF_16_ROUTED
        | FOUR_GROUPS
        | MLA
        | {"index_head_dim": 128, "index_n_heads": 4, "index_topk": 64},
    ),
    "glm4_moe": Architecture(
        "Glm4MoeForCausalLM",
        "Glm4MoeConfig",
        {"head_dim": 32} | DENSE_FIRST | OF_16_ROUTED | ONE_GROUP,
    ),
    "glm4_moe_lite": Architecture(
        "Glm4MoeLiteForCausalLM",
        "Glm4MoeLiteConfig",
        DENSE_FIRST | OF_16_ROUTED | ONE_GROUP | MLA,
    ),
    "gpt_oss": Architecture(
        "GptOssForCausalLM",
        "GptOssConfig",
        {
            "head_dim": 32,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_local_experts": 16,
            "num_experts_per_tok": 4,
            "sliding_window": 64,
        },
    ),
    "gemma4": Architecture(
        "Gemma4ForCausalLM",
        "Gemma4TextConfig",
        {
            "head_dim": 64,
            "global_head_dim": 128,
            "intermediate_size": 256,
            "moe_intermediate_size": 64,
            "num_hidden_layers": 6,
            "num_experts": 16,
            "top_k_experts": 4,
            "enable_moe_block": True,
            "sliding_window": 64,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 260,
        },
    ),
    "qwen3_next": Architecture(
        "Qwen3NextForCausalLM",
        "Qwen3NextConfig",
        {
            "head_dim": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
        }
        | SHARED_EXPERT
        | OF_16,
        dtype="bfloat16",  # its kernels on a CPU know no other
    ),
    "qwen3_5_moe": Architecture(
        "Qwen3_5MoeForCausalLM",
        "Qwen3_5MoeTextConfig",
        {
            "head_dim": 128,
            "num_hidden_layers": 4,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
        }
        | SHARED_EXPERT
        | OF_16,
        dtype="bfloat16",
    ),
    "granitemoe": Architecture("GraniteMoeForCausalLM", "GraniteMoeConfig", OF_8_LOCAL),
    "phimoe": Architecture(
        "PhiMoEForCausalLM",
        "PhimoeConfig",
        OF_8_LOCAL
        | {
            "sliding_window": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
    "ernie4_5_moe": Architecture(
        "Ernie4_5_MoeForCausalLM",
        "Ernie4_5_MoeConfig",
        {
            "intermediate_size": 256,
            "moe_intermediate_size": 64,
            "moe_num_experts": 16,
            "moe_k": 4,
            "moe_num_shared_experts": 1,
            "moe_layer_start_index": 1,
        },
    ),
    "dots1": Architecture(
        "Dots1ForCausalLM",
        "Dots1Config",
        {"head_dim": 32} | DENSE_FIRST | OF_16_ROUTED | ONE_GROUP,
    ),
    "minimax_m2": Architecture(
        "MiniMaxM2ForCausalLM",
        "MiniMaxM2Config",
        {"head_dim": 32} | OF_8_LOCAL,
        {
            "rotary_dim": 32,
            "use_qk_norm": True,
            "qk_norm_type": "per_layer",
            "scoring_func": "sigmoid",
            "use_routing_bias": True,
        },
    ),
    "nemotron_h": Architecture(
        "NemotronHForCausalLM",
        "NemotronHConfig",
        {
            "head_dim": 32,
            "intermediate_size": 128,
            "moe_intermediate_size": 64,
            "moe_shared_expert_intermediate_size": 64,
            "layers_block_type": ["mamba", "moe", "attention", "moe"],
            "num_hidden_layers": 4,
            "n_routed_experts": 16,
            "num_experts_per_tok": 4,
            "mamba_num_heads": 8,
            "mamba_head_dim": 32,
            "ssm_state_size": 32,
            "n_groups": 1,
        },
    ),
    "jamba": Architecture(
        "JambaForCausalLM",
        "JambaConfig",
        {
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 16,
            "mamba_dt_rank": 16,
        },
    ),
    "lfm2_moe": Architecture(
        "Lfm2MoeForCausalLM",
        "Lfm2MoeConfig",
        {
            "intermediate_size": 256,
            "moe_intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "num_dense_layers": 1,
            "layer_types": ["conv", "conv", "full_attention", "conv"],
        },
    ),
    "flex_olmo": Architecture(
        "FlexOlmoForCausalLM",
        "FlexOlmoConfig",
        {"intermediate_size": 64, "num_experts": 8, "num_experts_per_tok": 2},
    ),
    "cohere2_moe": Architecture(
        "Cohere2MoeForCausalLM",
        "Cohere2MoeConfig",
        {
            "head_dim": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "sliding_window": 64,
        }
        | OF_16,
    ),
    "longcat_flash": Architecture(
        "LongcatFlashForCausalLM",
        "LongcatFlashConfig",
        MLA
        | {
            "ffn_hidden_size": 256,
            "expert_ffn_hidden_size": 64,
            "num_layers": 2,
            "n_routed_experts": 8,
            "zero_expert_num": 4,
            "moe_topk": 2,
        },
        {
            "mla_scale_q_lora": True,
            "mla_scale_kv_lora": True,
            "zero_expert_type": "identity",
            "routed_scaling_factor": 1.0,
            "router_bias": False,
            "norm_topk_prob": False,
            "num_hidden_layers": 2,
        },
    ),
    "kimi_linear": Architecture(
        "KimiLinearForCausalLM",
        "KimiLinearConfig",
        DENSE_FIRST
        | MLA
        | {
            "q_lora_rank": None,
            "head_dim": 64,
            "num_hidden_layers": 4,
            "num_experts": 8,
            "num_experts_per_token": 2,
            "num_shared_experts": 1,
            "linear_attn_config": {
                "kda_layers": [1, 2, 3],
                "full_attn_layers": [4],
                "num_heads": 4,
                "head_dim": 32,
                "short_conv_kernel_size": 4,
            },
        },
    ),
    "dbrx": Architecture(
        "DbrxForCausalLM",
        "DbrxConfig",
        {
            "d_model": 128,
            "n_heads": 4,
            "n_layers": 3,
            "max_seq_len": 2048,
        },
        {  # read back, these take no words but their own
            "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 8, "moe_top_k": 2},
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
        },
    ),
}


def build(name: str, directory: Path) -> Path:
    """Write the configuration; the weights are vLLM's (`load_format` dummy).

    Raises
    ------
    AttributeError
        The installed transformers does not know the architecture.
    """
    import transformers
    from tiny_model import save_tokenizer

    architecture = ARCHITECTURES[name]
    kind = getattr(transformers, architecture.config)
    sizes = {key: value for key, value in SHARED.items() if key not in kind.attribute_map}
    if name == "dbrx":  # has other words for all of them
        sizes = {"vocab_size": SHARED["vocab_size"]}
    said = kind(**{**sizes, **architecture.own}).to_dict() | architecture.written
    said |= {"architectures": [architecture.name], "dtype": "bfloat16"}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(said, default=str))
    save_tokenizer(directory)
    return directory
