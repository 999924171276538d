"""What has been written of an answer, so that another engine can go on with it."""

from typing import Any

from eldr_client import Move

from eldr_vllm.proxy import movable, sse
from eldr_vllm.proxy.said import Event, Usage

MOST_AGAIN = 8
"""Tokens that a move may have written once more, as their characters were not complete."""

_OF_THE_REQUEST = ("id", "object", "created", "model")
_OF_A_CHUNK = ("index", "logprobs", "finish_reason", "token_ids")


class Written:
    """One leg's tokens over all its engines, asked for with `return_token_ids`.

    An engine begins with complete characters. A token alone in its event, and with text, completes
    them; what comes after the last such token is written again by the next engine, and cut from
    what the caller gets. A sampled token is not written again, since it would be another one.

    A chat's engine may parse what it writes, which is not seen from here. So a chat stays until its
    tokens are known to stand for its content and nothing else; its next engine writes a completion.

    Parameters
    ----------
    path, body
        The caller's request.
    limit : int
        Tokens that the answer may have.
    """

    def __init__(self, path: str, body: dict[str, Any], limit: int) -> None:
        self._rest = movable.rest_of(body)
        self._limit = limit
        self._most_again = MOST_AGAIN if movable.is_greedy(body) else 0
        self._is_chat = path == movable.CHATS
        self.proposed: Move | None = None
        # What the next engine is asked; empty while that is the caller's own request.
        self.request: dict[str, Any] = {}
        self._content: list[str] = []  # of a chat, as long as its engine may parse it
        self.is_plain = not self._is_chat  # the tokens so far stand for what the caller has
        self._prompt: list[int] = []
        self._knows_all = True
        self.ids: list[int] = []  # up to the last complete character
        self._open: list[int] = []  # since then, by this engine
        # Since then, too: tokens and characters that the caller has, characters by this engine.
        self._had = self._seen = self._made = 0
        self.given = 0  # tokens of the answer in this engine's prompt
        self._shared: dict[str, Any] = {}

    @property
    def can_go_on(self) -> bool:
        """All tokens so far are known, and there may be more."""
        return self.is_plain and self._is_known

    @property
    def _may_be_parsed(self) -> bool:
        return self._is_chat and not self.request

    @property
    def _is_known(self) -> bool:
        is_whole = not self._open or self._most_again > 0
        return self._knows_all and is_whole and bool(self._prompt) and len(self.ids) < self._limit

    @property
    def tokens(self) -> int:
        """Those of the prompt that the next engine would get."""
        return len(self._prompt) + len(self.ids)

    def due_move(self, attempt: int) -> Move | None:
        """The proposal for this attempt, once, when it can be carried out."""
        has_begun = bool(self.ids) or not self._may_be_parsed
        if self.proposed is None or len(self._open) > self._most_again or not has_begun:
            return None
        move, self.proposed = self.proposed, None
        return move if move.attempt == attempt and self._is_known else None

    def compare(self, text: str | None) -> None:
        """A chat's `ids` stand for this text, None if that is unknown.

        White space proves nothing: it may come before what an engine takes for reasoning. Some
        tokenizers drop the space before a first word.
        """
        said = "".join(self._content)
        said = said[: len(said) - self._made]
        self.is_plain = bool(text and text.strip()) and said in (text, f" {text}")

    def go_on(self) -> None:
        """The engine has stopped, and another one is to be asked."""
        self._open, self._made, self.given = [], 0, len(self.ids)
        if self.can_go_on:
            left = self._limit - self.given
            self.request = {**self._rest, "prompt": [*self._prompt, *self.ids], "max_tokens": left}

    def take(self, event: Event) -> Event | None:
        """Note an event, and make it one of the whole answer; None if the caller has had it."""
        payload = event.payload
        if not payload:
            return event
        if not self._shared:
            self._shared = {name: payload[name] for name in _OF_THE_REQUEST if name in payload}
        payload.update(self._shared)
        if self._is_chat and not self._may_be_parsed:
            payload["choices"] = [_as_chunk(choice) for choice in payload["choices"]]
        self._prompt = self._prompt or _take_ids(payload, "prompt_token_ids")
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
        holder, name = choice, "text"
        if self._is_chat:
            holder, name = choice["message" if "message" in choice else "delta"], "content"
        text = holder.get(name) or ""
        if self._is_chat and "role" in holder and not (ids or text):
            return False  # it opens the answer
        self._prompt = self._prompt or prompt
        self._knows_all &= bool(ids) and not (self._is_chat and _says_more(holder))
        self._open += ids
        repeats = not holder or (bool(ids) and len(self._open) <= self._had)
        self._had = max(self._had, len(self._open))
        if cut := min(max(self._seen - self._made, 0), len(text)):
            holder[name] = text[cut:]
        if self._may_be_parsed:
            self._content.append(text)
            self.is_plain = False
        self._made += len(text)
        self._seen = max(self._seen, self._made)
        if text and len(ids) == 1:
            self.ids += self._open
            self._had -= len(self._open)
            self._seen -= self._made
            self._open, self._made = [], 0
        return repeats and not choice.get("finish_reason")

    def _whole_usage(self, said: dict[str, Any], usage: Usage) -> Usage:
        whole = Usage(max(usage.prompt - self.given, 0), usage.completion + self.given)
        if self.given:
            said.update(prompt_tokens=whole.prompt, completion_tokens=whole.completion)
            details = said.get("prompt_tokens_details")
            if isinstance(details, dict) and type(details.get("cached_tokens")) is int:
                details["cached_tokens"] = min(details["cached_tokens"], whole.prompt)
        return whole


def _take_ids(holder: dict[str, Any], name: str) -> list[int]:
    """Those that it has, and has no more: the caller did not ask, and would find null."""
    ids = holder.get(name)
    if ids is not None:
        holder[name] = None
    return ids if isinstance(ids, list) and all(type(each) is int for each in ids) else []


def _says_more(delta: dict[str, Any]) -> bool:
    """Whether a chat's delta has anything but content, as where an engine parses what it writes."""
    return any(value for name, value in delta.items() if name not in ("role", "content"))


def _as_chunk(choice: dict[str, Any]) -> dict[str, Any]:
    """A completion's choice as that of a chat."""
    chunk = {name: choice[name] for name in _OF_A_CHUNK if name in choice}
    if choice.get("finish_reason"):
        chunk["stop_reason"] = choice.get("stop_reason")
    return {**chunk, "delta": {"content": choice.get("text") or ""}}
