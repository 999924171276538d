"""An engine on a bare socket, which may answer anything at all, HTTP or not.

What it says begins as what a sound engine says: an answer's payload, or the events of a stream. A
manner changes that at one of three levels: the payload, the JSON of it, or the bytes on the wire.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from eldr_client.aio import RouterClient
from scripted_engine import MODEL, text_of

TEXT = "".join(text_of("Hello", 5))


@dataclass(frozen=True)
class Manner:
    """How an engine misbehaves, and the status that its caller should see all the same."""

    name: str
    status: int = 502
    # Replaces fields of the payload, or of each event that has such a field.
    fields: dict[str, Any] = field(default_factory=dict)
    _: KW_ONLY
    # Makes the JSON of the payload, or of the first event.
    encode: Callable[[dict], bytes] = lambda payload: json.dumps(payload).encode()
    # Makes the stream of its events, each one without its blank line.
    stream: Callable[[list[bytes]], bytes] = lambda events: b"".join(e + b"\n\n" for e in events)
    # Says all that there is to be said, instead of the above.
    wire: bytes | None = None
    # What follows the headers of any 200.
    headers: bytes = b""
    # Its bytes come one by one; after a stream, or what it says instead, it stays.
    drips: bool = False
    stays: bool = False
    # It has the request booked at the daemon, as a prefill engine may, and tells so or not.
    books: bool = False


@dataclass
class RudeEngine:
    manner: Manner
    daemon: str
    url: str = ""
    asked: list[dict] = field(default_factory=list)

    @property
    def leases(self) -> list[str]:
        """Those under which a decode was asked for."""
        return [body["kv_transfer_params"]["eldr"]["lease_id"] for body in self.asked]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        body = json.loads(await reader.readexactly(int(length)))
        try:
            await self._answer(body, writer)
            await writer.drain()
        finally:
            writer.close()

    async def _answer(self, body: dict, writer: asyncio.StreamWriter) -> None:
        if body["model"] != MODEL:
            writer.write(plain(b"{}", b"404 Not Found"))
            return
        self.asked.append(body)
        manner = self.manner
        if manner.books:
            name = body["kv_transfer_params"]["eldr"]["request_id"]
            async with RouterClient(self.daemon, timeout=5.0) as client:
                await client.route(MODEL, name, prompt_tokens=7)
        if manner.wire is not None:
            said = manner.wire
        elif body.get("stream"):
            said = plain(self._stream(), kind=b"text/event-stream", more=manner.headers)
        else:
            is_prefill = body["kv_transfer_params"].get("do_remote_decode")
            payload = {**answer(1 if is_prefill else 5), **manner.fields}
            said = plain(manner.encode(payload), more=manner.headers)
        for piece in (said[i : i + 1] for i in range(len(said))) if manner.drips else [said]:
            writer.write(piece)
            await asyncio.sleep(0)
        if manner.stays and (body.get("stream") or manner.wire is not None):
            with suppress(asyncio.CancelledError):  # the test is over
                await asyncio.sleep(10)

    def _stream(self) -> bytes:
        events = [chunk(token) for token in text_of("Hello", 5)]
        events[-1]["choices"][0]["finish_reason"] = "length"
        events.append({**answer(5), "choices": []})
        for event in events:
            known = {k: v for k, v in self.manner.fields.items() if k in event}
            event.update(known if event["choices"] else {"usage": known.get("usage", USAGE)})
        lines = [b"data: " + self.manner.encode(events[0])]
        lines += [b"data: " + json.dumps(event).encode() for event in events[1:]]
        return self.manner.stream([*lines, b"data: [DONE]"])


USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def answer(tokens: int) -> dict:
    text = "".join(text_of("Hello", tokens))
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "text": text, "finish_reason": "length"}],
        "usage": USAGE,
        "kv_transfer_params": {"remote_request_id": "x"} if tokens == 1 else None,
    }


def chunk(token: str) -> dict:
    choice = {"index": 0, "text": token, "finish_reason": None}
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "choices": [choice]}


def plain(
    body: bytes,
    status: bytes = b"200 OK",
    kind: bytes = b"application/json",
    more: bytes = b"",
) -> bytes:
    """An answer of HTTP; it ends where the connection does, unless `more` says otherwise."""
    head = b"HTTP/1.1 " + status + b"\r\nContent-Type: " + kind + b"\r\nConnection: close\r\n"
    return head + more + b"\r\n" + body


@asynccontextmanager
async def rude_engines(manner: Manner, count: int, daemon: str) -> AsyncIterator[list[RudeEngine]]:
    engines = [RudeEngine(manner, daemon) for _ in range(count)]
    servers = []
    for engine in engines:
        server = await asyncio.start_server(engine.serve, "127.0.0.1", 0, limit=1 << 20)
        servers.append(server)
        engine.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield engines
    finally:
        for server in servers:
            server.close()
