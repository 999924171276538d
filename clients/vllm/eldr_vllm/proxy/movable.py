"""Which answers another engine can continue, by the options of their requests.

A token depends on those before it, whether they are the prompt's or the answer's. So an engine
whose prompt is the old one and all tokens so far continues as the engine before would have, if no
option tells the two apart, and if nothing is held back between tokens and text. Greedy tokens are
then the same, and sampled ones have the same distribution. With a `seed` only one engine repeats
itself.

Once a template has made a prompt of its messages, a chat continues as a completion.
"""

from typing import Any

COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"

# Options that mean the same for the rest of an answer, at either endpoint.
_REST = frozenset(
    (
        *("model", "n", "stream", "stream_options", "user", "cache_salt", "priority"),
        *("temperature", "seed", "top_p", "top_k", "min_p", "repetition_penalty", "ignore_eos"),
        *("logit_bias", "allowed_token_ids", "stop_token_ids", "skip_special_tokens"),
        "prompt_cache_key",
    )
)
# Options that are spent once the prompt is made, and limits: the next engine gets what is left.
_DONE = {
    COMPLETIONS: frozenset(("prompt", "add_special_tokens", "max_tokens")),
    CHATS: frozenset(
        (
            *("messages", "max_tokens", "max_completion_tokens", "chat_template", "documents"),
            *("chat_template_kwargs", "add_generation_prompt", "continue_final_message"),
            *("add_special_tokens", "reasoning_effort"),
        )
    ),
}
# Values at which other options mean nothing.
_OFF: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "min_tokens": (0,),
    "best_of": (1,),
    "stop": ("", []),
    "echo": (False,),
    "use_beam_search": (False,),
    "return_token_ids": (False,),
}
_OFF_IN_CHATS: dict[str, tuple[Any, ...]] = {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none",),
    "parallel_tool_calls": (True, False),
    "include_reasoning": (True,),
}


def can_go_on(path: str, body: dict[str, Any], limit: int) -> bool:
    """Whether another engine can continue an answer of at most `limit` tokens; 0 for no limit."""
    if path not in _DONE or body.get("stream") is not True or not limit:
        return False
    if not is_greedy(body) and body.get("seed") is not None:
        return False
    off = {**_OFF, **_OFF_IN_CHATS} if path == CHATS else _OFF
    return _is_text(body.get("messages") or []) and all(
        name in _REST or name in _DONE[path] or value is None or value in off.get(name, ())
        for name, value in body.items()
    )


def is_greedy(body: dict[str, Any]) -> bool:
    """Whether an engine that writes a token again writes the same."""
    return body.get("temperature") == 0


def rest_of(body: dict[str, Any]) -> dict[str, Any]:
    """A completion's options for the rest of an answer, but for its prompt and limit."""
    return {name: value for name, value in body.items() if name in _REST or name in _OFF}


def _is_text(messages: Any) -> bool:
    """Whether tokens are all that there is of these messages."""
    return isinstance(messages, list) and all(
        isinstance(message, dict) and _is_text_alone(message.get("content")) for message in messages
    )


def _is_text_alone(content: Any) -> bool:
    parts = content if isinstance(content, list) else []
    return isinstance(content, str | list | None) and all(
        isinstance(part, str) or (isinstance(part, dict) and part.get("type") == "text")
        for part in parts
    )
