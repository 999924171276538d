"""How engines are started: what each configuration adds to the shared options."""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any

OPTIONS = {
    "enforce_eager": True,
    "max_model_len": 640,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 128,  # most prompts come in several chunks
    "block_size": 32,
    "load_format": "dummy",
    "disable_log_stats": False,
}
FEW = ("qwen3_moe", "gpt_oss", "gemma4", "deepseek_v3", "qwen3_next")


@dataclass(frozen=True)
class Configuration:
    """Options of vLLM's `LLM`, and how it is tested.

    Attributes
    ----------
    env : dict
        Environment variables that must be set before vLLM is imported.
    architectures : sequence of str, optional
        Those tested if none are named; None for all.
    ranks : int
        Data-parallel ranks, each a process with its own prompts.
    preempts : bool
        Whether the cell fails unless requests were preempted.
    prompts : int
    """

    options: dict[str, Any] = field(default_factory=dict)
    _: KW_ONLY
    env: dict[str, str] = field(default_factory=dict)
    architectures: tuple[str, ...] | None = FEW
    ranks: int = 1
    preempts: bool = False
    prompts: int = 16


V2 = {"VLLM_USE_V2_MODEL_RUNNER": "1", "TRITON_INTERPRET": "1"}
NGRAM = {
    "method": "ngram",
    "num_speculative_tokens": 3,
    "prompt_lookup_min": 1,
    "prompt_lookup_max": 3,
}

CONFIGURATIONS = {
    "eager": Configuration(architectures=None),
    "compiled": Configuration({"enforce_eager": False}),
    "async": Configuration({"async_scheduling": True}),
    "sync": Configuration({"async_scheduling": False}),
    "tp2": Configuration({"tensor_parallel_size": 2}),
    "no-prefix-cache": Configuration({"enable_prefix_caching": False}),
    "no-hybrid": Configuration({"disable_hybrid_kv_cache_manager": True}),
    "evicting": Configuration({"num_gpu_blocks_override": 48}, preempts=True),
    "ngram": Configuration({"speculative_config": NGRAM}),
    "mtp": Configuration(
        {
            "speculative_config": {"method": "mtp", "num_speculative_tokens": 1},
            "max_num_batched_tokens": 640,  # vLLM 0.32 never ends prompts in chunks with it
        },
        architectures=("deepseek_v3_mtp",),
    ),
    "ep": Configuration({"enable_expert_parallel": True}),
    "dp2": Configuration(ranks=2),
    "bfloat16": Configuration({"dtype": "bfloat16"}),
    "v2": Configuration(env=V2, prompts=6),
    "v2-compiled": Configuration({"enforce_eager": False}, env=V2, prompts=6),
}
