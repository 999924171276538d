"""A scripted engine whose tokens are bytes of a text, each following from all before it."""

import asyncio
import codecs
import itertools
from dataclasses import KW_ONLY, dataclass
from typing import Any

from aiohttp import web
from scripted_engine import MODEL, Engine, _dump

TEXT = "Grüße, 世界! 😀 naïve → ".encode()
_created = itertools.count(1)


def tokens_of(prompt: str | list[int]) -> list[int]:
    return list(prompt.encode()) if isinstance(prompt, str) else prompt


def answer_to(prompt: str | list[int], length: int) -> str:
    """What one engine writes: complete characters."""
    start = len(tokens_of(prompt))
    written = bytes(TEXT[i % len(TEXT)] for i in range(start, start + length))
    return codecs.getincrementaldecoder("utf-8")("replace").decode(written)


@dataclass
class TextEngine(Engine):
    """Streams of /v1/completions as vLLM writes them, with so many tokens in events by turns."""

    _: KW_ONLY
    at_once: tuple[int, ...] = (1,)

    async def _stream(
        self, request: web.Request, body: dict, tokens: list[str], fault: Any
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if fault == "error-event":
            await response.write(b'data: {"error":{"message":"KV load failed","code":500}}\n\n')
            return response
        prompt, limit = tokens_of(body["prompt"]), body["max_tokens"]
        written = [TEXT[i % len(TEXT)] for i in range(len(prompt), len(prompt) + limit)]
        created = next(_created)
        shared = {"id": f"cmpl-{created}", "created": created, "model": MODEL}
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        options = body.get("stream_options") or {}
        turns, start = itertools.cycle(self.at_once), 0
        while start < limit:
            await asyncio.sleep(self.pause)
            if fault == "break" and start > 7:
                request.transport.abort()
                return response
            ids = written[start : start + next(turns)]
            ended = start + len(ids) == limit
            choice = {
                "text": decoder.decode(bytes(ids)),
                "token_ids": None,
                "prompt_token_ids": None,
            }
            choice["finish_reason"] = "length" if ended else None
            if body.get("return_token_ids"):
                choice.update(token_ids=ids, prompt_token_ids=None if start else prompt)
            payload = {**shared, "choices": [{"index": 0, **choice}]}
            if options.get("continuous_usage_stats"):
                payload["usage"] = _counted(len(prompt), start + len(ids))
            await response.write(b"data: " + _dump(payload) + b"\n\n")
            start += len(ids)
        if options.get("include_usage"):
            closing = {**shared, "choices": [], "usage": _counted(len(prompt), limit)}
            await response.write(b"data: " + _dump(closing) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


def _counted(prompt: int, answer: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
    }
