"""What the shim tells of a prompt's beginning, by vLLM's own requests."""

import pytest

pytestmark = pytest.mark.vllm


def asked(tokens, **more):
    from eldr_vllm.scheduler.prompt_tokens import model_and_salt, plain_tokens
    from vllm.sampling_params import SamplingParams
    from vllm.v1.request import Request

    request = Request("r", tokens, SamplingParams(max_tokens=1), None, **more)
    return plain_tokens(request), model_and_salt(request, "m")


def test_a_prompt_of_tokens():
    assert asked([5, 6, 7]) == ([5, 6, 7], ("m", ""))


def test_tenants_and_adapters_are_apart():
    from vllm.lora.request import LoRARequest

    adapter = LoRARequest("law", 1, "/nowhere")
    assert asked([5], cache_salt="a", lora_request=adapter)[1] == ("law", "a")


def test_images_end_what_tokens_tell():
    from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange

    features = [
        MultiModalFeatureSpec(None, "image", "x", PlaceholderRange(offset=at, length=1))
        for at in (3, 2)
    ]
    assert asked([5, 6, 0, 0, 7], mm_features=features)[0] == [5, 6]


def test_embeddings_tell_nothing():
    import torch

    assert asked(None, prompt_embeds=torch.zeros(4, 8))[0] == ()
