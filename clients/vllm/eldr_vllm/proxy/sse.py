"""Server-sent events, as OpenAI's interface uses them."""

import json
from collections.abc import AsyncIterator
from typing import Any

DONE = b"data: [DONE]\n\n"


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Whole events, each with its closing blank line, from bytes cut anywhere."""
    buffer = b""
    async for chunk in chunks:
        *whole, buffer = (buffer + chunk).split(b"\n\n")
        for event in whole:
            yield event + b"\n\n"


def encode(payload: dict[str, Any]) -> bytes:
    """An event with this payload."""
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def decode(event: bytes) -> dict[str, Any]:
    """An event's payload; empty for a comment."""
    if not event.startswith(b"data:"):
        return {}
    payload = json.loads(event[5:])
    return payload if isinstance(payload, dict) else {}


def has_usage_only(event: bytes) -> bool:
    """The closing event of a stream with include_usage, told without parsing every token."""
    return b'"choices":[]' in event or b'"choices": []' in event


def ends_sequence(event: bytes) -> bool:
    """The last event of a sequence, which says why it ended."""
    return b'"finish_reason":' in event and b'"finish_reason":null' not in event


def is_error(event: bytes) -> bool:
    """vLLM's way to say, after its 200, that the request failed."""
    return event.startswith((b'data: {"error"', b'data:{"error"'))
