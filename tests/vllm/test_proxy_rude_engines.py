"""Engines that misbehave, over real sockets, with the real daemon: nobody hangs, no lease stays."""

import asyncio
import json
from collections.abc import Iterable

import pytest
from daemon import Daemon
from rude_engine import TEXT, Manner, plain, rude_engines
from scripted_engine import Rig, eventually, running_rig
from test_proxy_daemon import booked, placement, register, unregister

USAGES = {
    "huge": {"prompt_tokens": 10**30, "completion_tokens": 10**30, "total_tokens": 10**30},
    "negative": {"prompt_tokens": -7, "completion_tokens": -5, "total_tokens": -12},
    "a list": [7, 5, 12],
    "a string": "7 and 5",
    "a number": 12,
    "of strings": {"prompt_tokens": "7", "completion_tokens": "5"},
    "of fractions": {"prompt_tokens": 7.5, "completion_tokens": 1e300},
    "of lists": {"prompt_tokens": [7], "completion_tokens": {"all": 5}},
    "too much by one": {"completion_tokens": 2**31},
}
JSONS = {
    "cut": b'{"choices": [{"index": 0, "te',
    "empty": b"",
    "no UTF-8": b'{"choices": [{"index": 0, "text": "\xff\xfe"}]}',
    "UTF-16": '{"choices": []}'.encode("utf-16"),
    "NaN": b'{"choices": [{"index": 0, "text": "", "logprobs": NaN}]}',
    "too deep": b'{"choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep": b'{"choices": [], "x": ' + b"[" * 500 + b"]" * 500 + b"}",
    "an endless number": b'{"created": ' + b"9" * 5000 + b"}",
    "a list": b'[{"index": 0, "text": ""}]',
    "a string": b'"text"',
    "null": b"null",
    "HTML": b"<html>Bad Gateway</html>",
}
CHOICES = {
    "missing": None,
    "an object": {"0": {"text": ""}},
    "strings": ["text"],
    "of a list": [[{"text": ""}]],
    "with a number for text": [{"index": 0, "text": 7, "finish_reason": "length"}],
    "with a list for reason": [{"index": 0, "text": "", "finish_reason": ["length"]}],
    "with a string for index": [{"index": "0", "text": "", "finish_reason": "length"}],
    "that ended in an error": [{"index": 0, "text": "", "finish_reason": "error"}],
}
WIRES = {
    "nothing": (502, b""),
    "no HTTP": (502, b"SSH-2.0-OpenSSH_9.6\r\n"),
    "a status that is none": (502, b"HTTP/1.1 two hundred\r\n\r\n"),
    "a header without end": (502, b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000),
    "headers that are none": (502, b"HTTP/1.1 200 OK\r\n: :\r\n\x00\r\n\r\n"),
    "a chunk that is none": (502, plain(b"zz\r\n", more=b"Transfer-Encoding: chunked\r\n")),
    "less than it announced": (502, plain(b"{}", more=b"Content-Length: 999\r\n")),
    "a length that is none": (502, plain(b"{}", more=b"Content-Length: -1\r\n")),
    "gzip that is none": (502, plain(b"{}", more=b"Content-Encoding: gzip\r\n")),
    "no content": (502, plain(b"", b"204 No Content")),
    "a redirect": (502, plain(b"", b"307 Moved", more=b"Location: http://127.0.0.1:9/\r\n")),
    "500 in HTML": (502, plain(b"<html>", b"500 Internal Server Error", b"text/html")),
    "503 without words": (502, plain(b"", b"503 Service Unavailable")),
    "an error in a 200": (502, plain(b'{"error": {"message": "KV load failed", "code": 500}}')),
    "an error, as old vLLM has it": (502, plain(b'{"object": "error", "message": "no"}')),
    "400 that is not readable": (400, plain(b"\xff\x00", b"400 Bad Request")),
    "404 in HTML": (404, plain(b"<html>Not Found</html>", b"404 Not Found", b"text/html")),
    "429": (429, plain(b"busy", b"429 Too Many Requests", more=b"Retry-After: 7\r\n")),
    "408": (408, plain(b'{"error": {"message": "late"}}', b"408 Request Timeout")),
}


def events(*more: bytes):
    """A stream's way to end after its first two events."""
    return lambda sound: b"".join(event + b"\n\n" for event in (*sound[:2], *more))


STREAMS = {
    "CRLF": (200, lambda sound: b"".join(event + b"\r\n\r\n" for event in sound)),
    "CR": (200, lambda sound: b"".join(event + b"\r\r" for event in sound)),
    "without spaces": (200, lambda sound: events(*sound[2:])(sound).replace(b"data: ", b"data:")),
    "comments": (200, lambda sound: b"".join(b": ping\n\n" + e + b"\n\n" for e in sound)),
    "names and numbers": (
        200,
        lambda sound: b"".join(b"event: x\nid: 1\n" + e + b"\n\n" for e in sound),
    ),
    "no [DONE]": (200, lambda sound: events(*sound[2:-1])(sound)),
    "garbage after [DONE]": (200, lambda sound: events(*sound[2:], b"data: {", b"\xff")(sound)),
    "no end": (502, events()),
    "[DONE] too early": (502, events(b"data: [DONE]")),
    "[DONE] alone": (502, lambda sound: sound[-1] + b"\n\n"),
    "an error event": (502, events(b'data: {"error": {"message": "\xc3\xa4"}}')),
    "an error event that is no UTF-8": (502, events(b'data: {"error": {"message": "\xff"}}')),
    "a broken event": (502, events(b"data: {")),
    "a cut event": (502, events(b'data: {"choices": [{"ind')),
    "comments alone": (502, lambda sound: b": ping\n\n" * 3),
    "an event without end": (502, lambda sound: sound[0] + b" " * 300_000),
}
EVERYWHERE = [
    *(Manner(f"usage {name}", 200, {"usage": said}) for name, said in USAGES.items()),
    *(Manner(f"JSON {name}", encode=lambda _, said=said: said) for name, said in JSONS.items()),
    *(Manner(f"choices {name}", fields={"choices": said}) for name, said in CHOICES.items()),
    *(Manner(f"wire {name}", status, wire=wire) for name, (status, wire) in WIRES.items()),
    Manner("silence", wire=b"", stays=True),
    Manner("a byte at a time", 200, drips=True),
]
DECODES = [
    *EVERYWHERE,
    *(Manner(f"stream {name}", status, stream=make) for name, (status, make) in STREAMS.items()),
    Manner("stream with an open end", 200, stays=True),
]
GARBLED = {
    "kv a list": ["remote"],
    "kv a string": "remote",
    "eldr a list": {"eldr": [1]},
    "eldr a string": {"eldr": "me"},
    "counts a number": {"eldr": {"counts": 7}},
    "counts a list": {"eldr": {"counts": [1, 2]}},
    "counts no base64": {"eldr": {"counts": "\u00e4!"}},
    "a placement of numbers": {"eldr": {"placement": placement(7, 7)}},
    "a placement of lists": {"eldr": {"placement": [1]}},
    "a placement of half characters": {"eldr": {"placement": placement("\ud800", "http://x")}},
    "a placement elsewhere": {"eldr": {"placement": placement("DECODE-0", "http://127.0.0.1:9")}},
    "a placement's rank": {"eldr": {"placement": {**placement("a", "http://x"), "dp_rank": "0"}}},
    "a placement's reason": {"eldr": {"placement": {**placement("a", "http://x"), "reason": []}}},
    "a placement without lease": {"eldr": {"placement": {"worker_id": "DECODE-0"}}},
}
PREFILLS = [
    *EVERYWHERE,
    *(Manner(name, 200, {"kv_transfer_params": kv}) for name, kv in GARBLED.items()),
    *(
        Manner(f"{name}, and booked", 200, {"kv_transfer_params": kv}, books=True)
        for name, kv in GARBLED.items()
    ),
    Manner("JSON cut, and booked", encode=lambda _: JSONS["cut"], books=True),
    Manner("nothing, and booked", wire=b"", books=True),
    Manner("silence, and booked", wire=b"", stays=True, books=True),
]
WHOLE, STREAM = {}, {"stream": True}
ASKED = (WHOLE, STREAM, {**STREAM, "n": 2}, {"n": 2})
"""What the caller wants: a whole answer, a stream, and each of two sequences."""


@pytest.fixture(autouse=True)
def _small_events(monkeypatch):
    monkeypatch.setattr("eldr_vllm.proxy.sse.MAX_EVENT_BYTES", 200_000)


async def ask(rig: Rig, daemon: Daemon, manner: Manner, asked: Iterable[dict]) -> None:
    register(daemon, rig)
    for options in asked:
        answer, body = await asyncio.wait_for(rig.post(**options), 10)
        expected = 200 if "stream " in manner.name and "stream" not in options else manner.status
        if "stream" not in options:
            check_answer(answer.status, body, expected)
        elif answer.headers["Content-Type"].startswith("text/event-stream"):
            check_stream(body, expected)
        else:
            check_answer(answer.status, json.loads(body), expected)
    await eventually(lambda: booked(daemon) == 0)
    unregister(daemon, rig)


def check_answer(status: int, body: dict, expected: int) -> None:
    assert status == expected
    if status == 200:
        assert {choice["text"] for choice in body["choices"]} == {TEXT}
        assert is_usage(body["usage"])
    else:
        check_error(body, status)


def check_stream(stream: str, expected: int) -> None:
    *said, done, rest = stream.replace(": ping\n\n", "").split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    payloads = [json.loads(event.rpartition("data:")[2]) for event in said]
    if expected != 200:
        check_error(payloads.pop(), expected)
    texts = dict.fromkeys([0], "")
    for payload in payloads:
        assert is_usage(payload.get("usage"))
        for choice in payload["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert all(
        text == TEXT if expected == 200 else TEXT.startswith(text) for text in texts.values()
    )


def check_error(body: dict, status: int) -> None:
    assert isinstance(body["error"]["message"], str)
    assert body["error"].get("code", status) == status


def is_usage(said) -> bool:
    return said is None or all(type(n) is int and 0 <= n < 2**31 for n in said.values())


@pytest.mark.parametrize("manner", DECODES, ids=lambda manner: manner.name)
async def test_a_decode_engine(shared_daemon, manner):
    async with rude_engines(manner, 2, shared_daemon.grpc) as rude:
        urls = tuple(engine.url for engine in rude)
        async with running_rig(
            decodes=0, router=shared_daemon.grpc, decode=urls, read_timeout=0.3, attempts=2
        ) as rig:
            rig.decode = rude
            await ask(rig, shared_daemon, manner, ASKED)
    # There was something to be released.
    assert any(lease for engine in rude for lease in engine.leases)


@pytest.mark.parametrize("manner", PREFILLS, ids=lambda manner: manner.name)
async def test_a_prefill_engine(shared_daemon, manner):
    async with rude_engines(manner, 1, shared_daemon.grpc) as rude:
        urls = (rude[0].url,)
        async with running_rig(
            prefills=0, router=shared_daemon.grpc, prefill=urls, read_timeout=0.3
        ) as rig:
            rig.prefill = rude
            await ask(rig, shared_daemon, manner, (WHOLE, {**STREAM, "n": 2}))
        assert rude[0].asked


async def test_how_long_a_busy_engine_is_busy_is_passed_on(shared_daemon):
    (busy,) = (manner for manner in DECODES if manner.name == "wire 429")
    async with (
        rude_engines(busy, 1, shared_daemon.grpc) as rude,
        running_rig(decodes=0, decode=(rude[0].url,)) as rig,
    ):
        answer, _ = await rig.post()
    assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
    assert len(rude[0].asked) == 1  # there is nobody else


def test_there_are_fifty_and_more():
    names = [manner.name for manner in (*DECODES, *PREFILLS)]
    assert len(set(names)) >= 50
