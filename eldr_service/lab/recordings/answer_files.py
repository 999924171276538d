"""Parses engines' logged answers: JSON lines, JSON, server-sent events."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# In SGLang's int32 a prompt of 128k tokens through 61 layers of top-8 takes 330 MB.
LONGEST_LINE = 512 << 20
_NO_DATA = (b":", b"event:", b"id:", b"retry:")  # of server-sent events

_KINDS: dict[str, tuple[type, str]] = {
    "index": (int, "a number"),
    "meta_info": (dict, "an object"),
    "prompt_token_ids": (list, "a list"),
    "sglext": (dict, "an object"),
    "token_ids": (list, "a list"),
    "usage": (dict, "an object"),
}


@dataclass(frozen=True, slots=True)
class Logged:
    """One answer, with its chunks joined.

    Attributes
    ----------
    place : str
        File and line; for a stream, its last line.
    record : dict
        The logged object: the answer itself, or an object with it as `response`.
    body : dict
        The answer, with `choices` (OpenAI's form) or `meta_info` (SGLang's own).
    """

    place: str
    record: dict[str, Any]
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Malformed:
    """A line, or an answer in it, that cannot be parsed, and what was expected."""

    place: str
    why: str

    def __str__(self) -> str:
        return f"{self.place}: {self.why}"


def read_answers(path: Path) -> Iterator[Logged | Malformed]:
    """All answers in a file, streamed ones after the others."""
    streams: dict[str, Logged] = {}
    for place, value, event in _values(path):
        if isinstance(value, Malformed):
            yield value
            continue
        for record in value if isinstance(value, list) else [value]:
            try:
                found = [Logged(place, record, body) for body in _bodies(record)]
            except (ValueError, RecursionError) as error:
                yield Malformed(place, str(error))
                continue
            for logged in found:
                key = answer_id(logged.body)
                if key is not None and (event or key in streams or _is_chunk(logged.body)):
                    before = streams.get(key)
                    streams[key] = _joined(before, logged) if before else logged
                else:
                    yield logged
    yield from streams.values()


def _values(path: Path) -> Iterator[tuple[str, Any, bool]]:
    """Place, JSON value or why there is none, and whether it came as an event."""
    with path.open("rb") as file:
        number, begun = 0, False
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            place = f"{path} line {number}"
            if len(line) > LONGEST_LINE:
                yield place, Malformed(place, f"longer than {LONGEST_LINE >> 20} MiB"), False
                while line and not line.endswith(b"\n"):
                    line = file.readline(LONGEST_LINE)
                continue
            text = line.strip()
            event = text.startswith(b"data:")
            text = text.removeprefix(b"data:").strip()
            if not text or text == b"[DONE]" or text.startswith(_NO_DATA):
                continue
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                whole = None if begun else _whole(path)
                if whole is not None:
                    yield from whole
                    return
                value = Malformed(place, f"expected JSON: {error}")
            begun = True
            yield place, value, event


def _whole(path: Path) -> Iterator[tuple[str, Any, bool]] | None:
    """The values of a file that is one multi-line JSON document; None if it is not."""
    if path.stat().st_size > LONGEST_LINE:
        return None
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    values = document if isinstance(document, list) else [document]
    return ((f"{path} answer {n}", value, False) for n, value in enumerate(values, start=1))


def _bodies(value: Any) -> Iterator[dict[str, Any]]:
    """The answers in a logged value: itself, its `response` or `body`, or each item of a list."""
    if isinstance(value, list):
        for one in value:
            yield from _bodies(one)
        return
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {json.dumps(value)[:40]}")
    if "choices" in value:
        choices = value["choices"]
        if not isinstance(choices, list) or not all(isinstance(one, dict) for one in choices):
            raise ValueError("choices must be a list of objects")
        for one in (value, *choices):
            _check_kinds(one)
        yield value
    elif "meta_info" in value:
        if value["meta_info"] is None:
            raise ValueError("meta_info must be an object")
        _check_kinds(value)
        yield value
    else:
        inside = next((value[name] for name in ("response", "body") if value.get(name)), None)
        if inside is None:
            raise ValueError(
                "expected an answer with choices (OpenAI's form) or meta_info (SGLang's), or one"
                f" in response or body; found {', '.join(value)[:80] or 'an empty object'}"
            )
        yield from _bodies(inside)


def _check_kinds(fields: dict[str, Any]) -> None:
    for name, (kind, said) in _KINDS.items():
        if fields.get(name) is not None and not isinstance(fields[name], kind):
            raise ValueError(f"{name} must be {said}")


def answer_id(body: dict[str, Any]) -> str | None:
    """What chunks of one stream share, and the two legs of a disaggregated request."""
    found = body.get("id") or body.get("request_id") or (body.get("meta_info") or {}).get("id")
    return None if found is None else str(found)


def _is_chunk(body: dict[str, Any]) -> bool:
    if str(body.get("object", "")).endswith(".chunk"):
        return True
    if "choices" in body:  # one of the chunks has only usage
        unfinished = [one.get("finish_reason", "") is None for one in body["choices"]]
        return not unfinished or any(unfinished)
    return body["meta_info"].get("finish_reason", "") is None


def _joined(before: Logged, chunk: Logged) -> Logged:
    """Join chunks: tokens are concatenated, for everything else the last value counts."""
    body = before.body | _said(chunk.body)
    if "choices" in body:
        by_index = {one.get("index", 0): one for one in before.body.get("choices", ())}
        for one in chunk.body.get("choices", ()):
            kept = by_index.setdefault(one.get("index", 0), {})
            tokens = (kept.get("token_ids") or []) + (one.get("token_ids") or [])
            kept |= _said(one) | ({"token_ids": tokens} if tokens else {})
        body["choices"] = list(by_index.values())
    if "meta_info" in body:
        body["meta_info"] = (before.body.get("meta_info") or {}) | _said(body["meta_info"] or {})
    return Logged(chunk.place, chunk.record | before.record, body)


def _said(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
