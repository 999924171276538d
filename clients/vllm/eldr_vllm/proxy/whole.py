"""Which requests one decode engine must serve alone, prompt included, and why."""

from typing import Any


def why_whole(path: str, body: dict[str, Any]) -> str:
    """Why prefill and decode cannot be separated; empty if they can."""
    for reason, holds in (
        ("beam search starts from the prompt itself and never pulls KV", _has_beams(body)),
        (
            "only the engine that computes the prompt knows its log probabilities",
            _wants_prompt_logprobs(path, body),
        ),
        (
            "the prompt is truncated according to the tokens left for the answer",
            _is_cut(path, body),
        ),
        ("embeddings may hold several prompts", body.get("prompt_embeds") is not None),
        ("the engine's own tools continue with prompts of their own", _has_own_tools(path, body)),
        (
            "vLLM's front end may fail to read one token as a call of that tool",
            _names_tool(path, body),
        ),
    ):
        if holds:
            return reason
    return ""


def _has_beams(body: dict[str, Any]) -> bool:
    return bool(body.get("use_beam_search"))


def _wants_prompt_logprobs(path: str, body: dict[str, Any]) -> bool:
    if body.get("prompt_logprobs") is not None:
        return True
    if not body.get("echo"):
        return False
    if path == "/v1/completions":
        return body.get("logprobs") is not None or body.get("max_tokens") == 0
    return bool(body.get("top_logprobs"))


def _is_cut(path: str, body: dict[str, Any]) -> bool:
    if path == "/v1/responses":
        return body.get("truncation") not in (None, "disabled")
    limit = body.get("truncate_prompt_tokens")
    return isinstance(limit, int) and limit < 0


def _has_own_tools(path: str, body: dict[str, Any]) -> bool:
    tools = body.get("tools")
    if path != "/v1/responses" or not isinstance(tools, list):
        return False
    return any(not isinstance(tool, dict) or tool.get("type") != "function" for tool in tools)


def _names_tool(path: str, body: dict[str, Any]) -> bool:
    choice = body.get("tool_choice")
    return path == "/v1/messages" and isinstance(choice, dict) and choice.get("type") == "tool"
