"""What has been written of an answer, so that another engine can go on with it.

A greedy token follows from those before it, be they of the prompt or of the answer. So an engine
whose prompt is the old one and all tokens so far goes on as the engine before would have, if no
option tells the two apart, and if nothing is held back between tokens and text.
"""

from typing import Any

from eldr_client import Move

from eldr_vllm.proxy import sse
from eldr_vllm.proxy.said import Event, Usage

MOST_AGAIN = 8
"""Tokens that a move may have written once more, as their characters were not complete."""

# Options that mean the same for the rest of an answer, and values at which others mean nothing.
_ANY = frozenset(
    (
        *("model", "prompt", "add_special_tokens", "max_tokens", "n", "ignore_eos"),
        *("temperature", "seed", "top_p", "top_k", "min_p", "repetition_penalty"),
        *("logit_bias", "allowed_token_ids", "stop_token_ids", "skip_special_tokens"),
        *("stream", "stream_options", "user", "cache_salt", "priority", "prompt_cache_key"),
    )
)
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
_OF_THE_REQUEST = ("id", "created", "model")


def can_go_on(path: str, body: dict[str, Any]) -> bool:
    """Whether a leg's answer can be continued by another engine, and be what one would write."""
    limit = body.get("max_tokens")
    return (
        path == "/v1/completions"
        and body.get("stream") is True
        and body.get("temperature") == 0
        and type(limit) is int
        and limit > 0
        and all(
            name in _ANY or value is None or value in _OFF.get(name, ())
            for name, value in body.items()
        )
    )


class Written:
    """One leg's tokens over all its engines, asked for with `return_token_ids`.

    An engine begins with complete characters. A token alone in its event, and with text, completes
    them; what comes after the last such token is written again by the next engine, and cut from
    what the caller gets.

    Parameters
    ----------
    limit : int
        Tokens that the answer may have.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.proposed: Move | None = None
        # What the next engine's request has in place of the caller's.
        self.instead: dict[str, Any] = {}
        self._prompt: list[int] = []
        self._knows_all = True
        self._ids: list[int] = []  # up to the last complete character
        self._open: list[int] = []  # since then, by this engine
        # Since then, too: tokens and characters that the caller has, characters by this engine.
        self._had = self._seen = self._made = 0
        self._given = 0  # tokens of the answer in this engine's prompt
        self._shared: dict[str, Any] = {}

    @property
    def can_go_on(self) -> bool:
        """All tokens so far are known, and there may be more."""
        return self._knows_all and bool(self._prompt) and len(self._ids) < self._limit

    @property
    def tokens(self) -> int:
        """Those of the prompt that the next engine would get."""
        return len(self._prompt) + len(self._ids)

    def due_move(self, attempt: int) -> Move | None:
        """The proposal for this attempt, once, when it can be carried out."""
        if self.proposed is None or len(self._open) > MOST_AGAIN:
            return None
        move, self.proposed = self.proposed, None
        return move if move.attempt == attempt and self.can_go_on else None

    def go_on(self) -> None:
        """The engine has stopped, and another one is to be asked."""
        self._open, self._made, self._given = [], 0, len(self._ids)
        if self.can_go_on:
            self.instead = {
                "prompt": [*self._prompt, *self._ids],
                "max_tokens": self._limit - self._given,
            }

    def take(self, event: Event) -> Event | None:
        """Note an event, and make it one of the whole answer; None if the caller has had it."""
        payload = event.payload
        if not payload:
            return event
        if not self._shared:
            self._shared = {name: payload[name] for name in _OF_THE_REQUEST if name in payload}
        payload.update(self._shared)
        again = [self._note(choice) for choice in payload["choices"]]
        if again and all(again):
            return None
        if event.usage is not None:
            event.usage = self._whole_usage(payload["usage"], event.usage)
        event.raw = sse.encode(payload)
        return event

    def _note(self, choice: dict[str, Any]) -> bool:
        """Whether the caller has had its tokens, and it does not end the answer."""
        ids, prompt = (_take_ids(choice, name) for name in ("token_ids", "prompt_token_ids"))
        text = choice.get("text") or ""
        self._prompt = self._prompt or prompt
        self._knows_all &= bool(ids)
        self._open += ids
        repeats = bool(ids) and len(self._open) <= self._had
        self._had = max(self._had, len(self._open))
        if cut := min(max(self._seen - self._made, 0), len(text)):
            choice["text"] = text[cut:]
        self._made += len(text)
        self._seen = max(self._seen, self._made)
        if text and len(ids) == 1:
            self._ids += self._open
            self._had -= len(self._open)
            self._seen -= self._made
            self._open, self._made = [], 0
        return repeats and not choice.get("finish_reason")

    def _whole_usage(self, said: dict[str, Any], usage: Usage) -> Usage:
        whole = Usage(max(usage.prompt - self._given, 0), usage.completion + self._given)
        if self._given:
            said.update(prompt_tokens=whole.prompt, completion_tokens=whole.completion)
            details = said.get("prompt_tokens_details")
            if isinstance(details, dict) and type(details.get("cached_tokens")) is int:
                details["cached_tokens"] = min(details["cached_tokens"], whole.prompt)
        return whole


def _take_ids(choice: dict[str, Any], name: str) -> list[int]:
    """Those that a choice has, and has no more: the caller did not ask, and would find null."""
    ids = choice.get(name)
    if ids is not None:
        choice[name] = None
    return ids if isinstance(ids, list) and all(type(each) is int for each in ids) else []
