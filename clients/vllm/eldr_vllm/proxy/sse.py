"""Server-sent events, to and from bytes."""

import json
from collections.abc import AsyncIterator
from typing import Any

from eldr_vllm.proxy.errors import EngineFailed

DONE = b"data: [DONE]\n\n"
MAX_EVENT_BYTES = 16 << 20
_BOM = b"\xef\xbb\xbf"


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Complete events, each with its closing blank line, from bytes cut anywhere.

    Lines may end in CRLF, LF or CR; the result uses LF. The last event may lack its blank line.

    Raises
    ------
    EngineFailed
        An event is longer than `MAX_EVENT_BYTES`.
    """
    buffer, held = b"", b""
    async for chunk in chunks:
        chunk = held + chunk
        held = b"\r" if chunk.endswith(b"\r") else b""  # its LF may be in the next chunk
        *whole, buffer = (buffer + _with_lf(chunk.removesuffix(b"\r"))).split(b"\n\n")
        for event in whole:
            if event := event.removeprefix(_BOM).strip(b"\n"):
                yield event + b"\n\n"
        if len(buffer) > MAX_EVENT_BYTES:
            raise EngineFailed(f"an event of more than {MAX_EVENT_BYTES} bytes")
    if buffer := buffer.strip(b"\n"):
        yield buffer + b"\n\n"


def data(event: bytes) -> bytes | None:
    """An event's data, its lines joined; None if there is none."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2:
        return event[6:-2]  # the form of most of vLLM's events
    lines = [
        line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")
    ]
    return b"\n".join(lines) if lines else None


def comment(event: bytes) -> bytes:
    """The comments of an event without data, which keep a connection alive."""
    lines = [line for line in event.split(b"\n") if line.startswith(b":")]
    return b"\n".join(lines) + b"\n\n" if lines else b""


def encode(payload: dict[str, Any], name: str | None = None) -> bytes:
    """An event with this payload."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def _with_lf(chunk: bytes) -> bytes:
    if b"\r" not in chunk:
        return chunk
    return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
