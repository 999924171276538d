"""Answers as vLLM and SGLang send them, with the experts of a recording's requests."""

import base64
import io

import numpy as np


def in_hidden_layers(experts, dense=1):
    """Experts as engines return them: dense layers first, all 0, without the last token's."""
    return np.pad(experts[:-1], ((0, 0), (dense, 0), (0, 0)))


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return base64.b64encode(file.getvalue()).decode()


def raw(array):
    return base64.b64encode(array.astype("<i4").tobytes()).decode()


def vllm(name, experts, prompt_tokens):
    """A completion; `experts` are all its tokens' [tokens, layers, top_k]."""
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": len(experts) - prompt_tokens,
    }
    returned = npy(in_hidden_layers(experts).astype(np.uint8))
    choice = {"index": 0, "text": "…", "finish_reason": "length", "routed_experts": returned}
    return {"id": name, "object": "text_completion", "choices": [choice], "usage": usage}


def sglang(name, experts, prompt_tokens):
    """An answer of /generate."""
    meta = {
        "id": name,
        "finish_reason": {"type": "length", "length": len(experts) - prompt_tokens},
        "prompt_tokens": prompt_tokens,
        "completion_tokens": len(experts) - prompt_tokens,
        "routed_experts": raw(in_hidden_layers(experts)),
    }
    return {"text": "…", "output_ids": [1], "meta_info": meta}


def answers(recording, form):
    """One answer per request of the recording."""
    for request in range(recording.num_requests):
        first, end = recording.offsets[request : request + 2]
        length = int(recording.prefill_len[request])
        yield form(f"a-{request}", recording.expert_ids[first:end], length)
