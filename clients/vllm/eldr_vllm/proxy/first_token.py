"""Sends the prefill's first token at once, as in the paper (opt-in).

The decode engine generates that token again, so its text is cut from the stream. Both engines must
therefore choose the same token: greedily, or with a seed. If text can be held back, retracted or
interpreted (stop strings, log probabilities, tools, structure), the token waits for the decode.
"""

from dataclasses import replace
from typing import Any

from eldr_vllm.proxy import sse
from eldr_vllm.proxy.legs import Leg
from eldr_vllm.proxy.said import Event

_NOT_WITH = (
    "stop",
    "stop_token_ids",
    "logprobs",
    "top_logprobs",
    "echo",
    "tools",
    "functions",
    "response_format",
    "structured_outputs",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "use_beam_search",
)


def may_go_first(leg: Leg) -> bool:
    """Whether the prefill's token is certain to be the decode's, and is plain text."""
    body = leg.body
    fixed = body.get("temperature") == 0 or body.get("seed") is not None
    plain = leg.endpoint.has_choices and not any(body.get(name) for name in _NOT_WITH)
    return leg.is_stream and fixed and plain


class FirstToken:
    """The first token of one sequence: its events, and its removal from what the decode sends."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self._answer = answer
        choice = answer["choices"][0]
        self._is_chat = "message" in choice
        text = (choice["message"].get("content") if self._is_chat else choice.get("text")) or ""
        # It ended by itself: there may be a token without text.
        self._text = text if choice.get("finish_reason") == "length" else ""
        self._left = len(self._text)

    def events(self) -> list[Event]:
        """The events to send at once; none if the token has no text yet."""
        if not self._text:
            return []
        if not self._is_chat:
            return [self._event({"text": self._text})]
        return [
            self._event({"delta": {"role": "assistant", "content": ""}}),
            self._event({"delta": {"content": self._text}}),
        ]

    def cut(self, event: Event) -> Event | None:
        """The decode's event without what was sent; None if nothing is left."""
        if not self._text or not event.payload.get("choices"):
            return event
        choice = event.payload["choices"][0]
        holder, name = (choice["delta"], "content") if self._is_chat else (choice, "text")
        role = self._is_chat and holder.pop("role", None)
        text = holder.get(name) or ""
        if not role and (not self._left or not text):
            return event
        cut = min(self._left, len(text))
        self._left -= cut
        holder[name] = text[cut:]
        if not holder[name] and not choice.get("finish_reason"):
            return None
        return replace(event, raw=sse.encode(event.payload))

    def _event(self, content: dict[str, Any]) -> Event:
        kind = "chat.completion.chunk" if self._is_chat else "text_completion"
        shared = {name: self._answer.get(name) for name in ("id", "created", "model")}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": None}
        payload = {**shared, "object": kind, "choices": [choice]}
        return Event(sse.encode(payload), payload=payload)
