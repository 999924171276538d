"""What a prompt's KV depends on, from vLLM's request."""

from collections.abc import Sequence
from typing import Any


def plain_tokens(request: Any) -> Sequence[int]:
    """The prompt's tokens before the first image or the like, whose placeholders are all equal.

    Empty if vLLM's request does not say which tokens those are.
    """
    ids = getattr(request, "prompt_token_ids", None)
    features = getattr(request, "mm_features", None)
    if ids is None or features is None or getattr(request, "prompt_embeds", None) is not None:
        return ()
    return ids[: min((feature.mm_position.offset for feature in features), default=len(ids))]


def model_and_salt(request: Any, model: str) -> tuple[str, str]:
    """The name of the model or its adapter, and the salt that separates tenants."""
    adapter = getattr(request, "lora_request", None)
    name = model if adapter is None else adapter.lora_name
    return name, getattr(request, "cache_salt", None) or ""
