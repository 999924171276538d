"""Parses what an engine says: bytes in, values out that no other code needs to check.

Secondary parts (usage, counts, a placement) are dropped if they are wrong, since no request should
fail because of them. A wrong answer, or a wrong end of it, raises EngineFailed.
"""

import logging
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NoReturn

from eldr_client import Handoff
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from eldr_vllm.proxy import sse
from eldr_vllm.proxy.endpoints import Endpoint
from eldr_vllm.proxy.errors import EngineErred, EngineFailed, ProxyError
from eldr_vllm.proxy.objects import read_object, short

logger = logging.getLogger("eldr_proxy")

MAX_TOKENS = 2**31 - 1  # the limit of the contract's fields, and more than any answer has


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the prompt and of the answer; 0 if an engine does not say."""

    prompt: int = 0
    completion: int = 0


@dataclass(slots=True, kw_only=True)
class Answer:
    """A complete answer. `payload` is fit for the caller once the rest is no longer needed."""

    payload: dict[str, Any] = field(default_factory=dict)
    usage: Usage = Usage()
    # Where the KV is; None if the engine has no connector.
    kv_transfer_params: dict[str, Any] | None = None
    # From the shim, if it took part: a signature may be on its way to the daemon.
    handoff: Handoff | None = None


@dataclass(slots=True)
class Event:
    """An event of a stream; `raw` is what the caller gets, if anything."""

    raw: bytes
    _: KW_ONLY
    payload: dict[str, Any] = field(default_factory=dict)
    usage: Usage | None = None
    is_done: bool = False
    # It has no part of the answer: a comment, only usage, or what precedes the first token.
    is_comment: bool = False
    is_usage_only: bool = False
    is_preamble: bool = False
    # Sequences whose finish reason it gives.
    ends: int = 0


def answer(data: bytes, endpoint: Endpoint, choices: int | None = None) -> Answer:
    """Parse a complete answer; if it has choices, there must be `choices` of them, if given.

    Raises
    ------
    EngineFailed
        It is not an answer, or (EngineErred) it says in a 200 that it failed.
    """
    payload = _object(data)
    _check_error(payload)
    if payload.get("status") == "failed":
        raise EngineErred(f"the answer failed: {short(payload.get('error'))}")
    if endpoint.has_choices:
        said = _choices(payload, endpoint, choices)
        if choices is not None and len(said) != choices:
            raise EngineFailed(f"expected {choices} choices, found {len(said)}")
    elif not isinstance(payload.get(endpoint.content), list):
        _refuse(f"a list as {endpoint.content}", payload.get(endpoint.content))
    result = Answer(payload=payload, usage=_usage(payload, endpoint) or Usage())
    kv = payload.get("kv_transfer_params")
    if kv is not None:
        payload["kv_transfer_params"] = None  # internal addresses are not for the caller
        _read_kv(result, kv)
    return result


def handed_over(said: Any) -> Answer | None:
    """What a request says about a prefill that is already done; None if it says nothing."""
    if not isinstance(said, dict) or said.get("do_remote_prefill") is not True:
        return None
    result = Answer()
    _read_kv(result, dict(said))
    return result


def event(raw: bytes, endpoint: Endpoint, choices: int | None = None) -> Event:
    """Parse one event of a stream with `choices` choices, if given.

    Raises
    ------
    EngineFailed
        It is not an event of this endpoint, or (EngineErred) it says that the request failed.
    """
    data = sse.data(raw)
    if data is None:
        return Event(sse.comment(raw), is_comment=True)
    if data.strip() == b"[DONE]":
        return Event(sse.DONE, is_done=True)
    payload = _object(data)
    _check_error(payload)
    if endpoint.has_choices:
        said = _choices(payload, endpoint, choices)
        result = Event(raw, payload=payload)
        result.is_usage_only = not said
        result.ends = sum(bool(choice.get("finish_reason")) for choice in said)
        holder = payload
    else:
        kind = payload.get("type")
        if not isinstance(kind, str):
            _refuse("an event with a type", payload)
        if kind == "response.failed":
            raise EngineErred(f"the answer failed: {short(payload.get('response'))}")
        result = Event(raw, payload=payload)
        result.is_preamble = kind in endpoint.preamble
        result.ends = int(kind in endpoint.last)
        inner = payload.get("response", payload.get("message"))
        holder = inner if isinstance(inner, dict) else payload
    counted, hidden = holder.get("usage"), holder.get("kv_transfer_params")
    result.usage = _usage(holder, endpoint)
    if hidden is not None:
        holder["kv_transfer_params"] = None
    if hidden is not None or (counted is not None and result.usage is None):
        result.raw = sse.encode(payload, None if endpoint.has_choices else payload["type"])
    return result


def refusal(worker_id: str, status: int, body: bytes, retry_after: str | None) -> ProxyError:
    """The answer to a 4xx: the engine's own error if it has one, else in our words."""
    try:
        is_error = isinstance(_object(body).get("error"), dict)
    except EngineFailed:
        is_error = False
    if retry_after is not None and not (retry_after.isascii() and retry_after.isprintable()):
        retry_after = None
    return ProxyError(
        status,
        f"{worker_id} refused it with HTTP {status}: {body[:200].decode(errors='replace')}",
        "invalid_request_error",
        body=body if is_error else None,
        retry_after=retry_after,
    )


def page(data: bytes) -> bytes:
    """Check that a page is a JSON object; returned unchanged."""
    _object(data)
    return data


def text(data: bytes) -> str:
    """What tokens stand for, as /detokenize says it."""
    said = _object(data).get("prompt")
    if not isinstance(said, str):
        _refuse("text", said)
    return said


def models(data: bytes) -> list[dict[str, Any]]:
    """The models that an engine serves, each with an id."""
    said = _object(data).get("data")
    if not isinstance(said, list) or not all(
        isinstance(each, dict) and isinstance(each.get("id"), str) for each in said
    ):
        _refuse("a list of models", said)
    return said


def metrics(data: bytes) -> list[Metric]:
    """The families of a metrics page; empty if it cannot be parsed."""
    try:
        return list(text_string_to_metric_families(data.decode()))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        logger.warning("a metrics page is not readable: %s", error)
        return []


def _object(data: bytes) -> dict[str, Any]:
    try:
        return read_object(data)
    except ValueError as error:
        raise EngineFailed(f"{error}, in {data[:60]!r}") from error


def _check_error(payload: dict[str, Any]) -> None:
    """Detect vLLM's way to report, after its 200, that the request failed."""
    error = payload.get("error")
    if error or "error" in (payload.get("object"), payload.get("type")):
        raise EngineErred(f"the engine says: {short(error or payload)}")


def _choices(
    payload: dict[str, Any], endpoint: Endpoint, count: int | None
) -> list[dict[str, Any]]:
    choices = payload.get("choices")
    if not isinstance(choices, list):
        _refuse("a list of choices", choices)
    for choice in choices:
        if not isinstance(choice, dict):
            _refuse("a choice", choice)
        _check_choice(choice, endpoint, MAX_TOKENS if count is None else count)
    return choices


def _check_choice(choice: dict[str, Any], endpoint: Endpoint, count: int) -> None:
    index, reason = choice.get("index", 0), choice.get("finish_reason")
    if type(index) is not int or not 0 <= index < count:
        _refuse("a choice's index", index)
    if not isinstance(reason, str | None):
        _refuse("a finish_reason", reason)
    if reason == "error":
        raise EngineErred("the answer ended in an error")
    if not endpoint.is_chat:
        text = choice.get("text")
    else:
        message = choice.get("message", choice.get("delta"))
        if not isinstance(message, dict):
            _refuse("a message", message)
        text = message.get("content")
    if not isinstance(text, str | None):
        _refuse("text", text)


def _usage(holder: dict[str, Any], endpoint: Endpoint) -> Usage | None:
    """The usage; an invalid one is removed from its holder."""
    said = holder.get("usage")
    if said is None:
        return None
    names = (*endpoint.usage, "total_tokens")
    if isinstance(said, dict) and all(_is_count(said.get(name) or 0) for name in names):
        prompt, completion, _ = (said.get(name) or 0 for name in names)
        return Usage(prompt, completion)
    logger.warning("expected usage, found %s", short(said))
    holder["usage"] = None
    return None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_TOKENS


def _read_kv(result: Answer, kv: Any) -> None:
    if not isinstance(kv, dict):
        logger.warning("expected kv_transfer_params, found %s", short(kv))
        return
    result.handoff = Handoff.of(kv.pop("eldr", None))
    result.kv_transfer_params = kv or None


def _refuse(expected: str, found: Any) -> NoReturn:
    raise EngineFailed(f"expected {expected}, found {short(found)}")
