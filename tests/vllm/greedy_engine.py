"""`python -m greedy_engine MODEL OPTIONS`: one engine's greedy answers, as token ids in JSON.

OPTIONS are LLM's keywords in JSON. Long prompts of one beginning, more than the KV cache holds, are
given twice: the second time some blocks are in the prefix cache, others only where a connector has
put them.
"""

import json
import sys


def prompts():
    return [
        [(seed * 17 + index * 7 + index // 9) % 250 + 1 for index in range(60 + 50 * seed)]
        for seed in range(6)
    ]


def answers(model, options):
    from vllm import LLM, SamplingParams

    defaults = {
        "dtype": "float32",
        "block_size": 32,
        "max_model_len": 512,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 1024,
        "num_gpu_blocks_override": 20,
        "enforce_eager": True,
    }
    llm = LLM(model=model, **{**defaults, **options})
    sampling = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    given = [{"prompt_token_ids": prompt} for prompt in prompts()]
    runs = [llm.generate(given, sampling, use_tqdm=False) for _ in range(2)]
    external = sum(output.num_cached_tokens or 0 for output in runs[1])
    llm.llm_engine.engine_core.shutdown()
    return [[list(output.outputs[0].token_ids) for output in run] for run in runs], external


if __name__ == "__main__":
    tokens, cached = answers(sys.argv[1], json.loads(sys.argv[2]))
    print(json.dumps({"tokens": tokens, "cached": cached}))
