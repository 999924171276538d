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


def answer_to(prompt: str | list[int], length: int, shift: int = 0) -> str:
    """What one engine writes: complete characters."""
    start = len(tokens_of(prompt)) + shift
    written = bytes(TEXT[i % len(TEXT)] for i in range(start, start + length))
    return codecs.getincrementaldecoder("utf-8")("replace").decode(written)


@dataclass
class TextEngine(Engine):
    """Streams as vLLM writes them, with so many tokens in events by turns.

    A chat's prompt is what its messages say. Engines of another `shift` have other samples.
    """

    _: KW_ONLY
    at_once: tuple[int, ...] = (1,)
    shift: int = 0
    # What it does to a chat's text: its first characters are "reasoning", or commas are "dropped".
    parser: str = ""
    detokenizes: bool = True

    def app(self) -> web.Application:
        app = super().app()
        app.add_routes([web.post("/detokenize", self.detokenize)])
        return app

    async def detokenize(self, request: web.Request) -> web.Response:
        if not self.detokenizes:
            raise web.HTTPNotFound
        text = bytes((await request.json())["tokens"]).decode(errors="replace")
        return web.json_response({"prompt": text})

    async def _stream(
        self, request: web.Request, body: dict, tokens: list[str], fault: Any
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if fault == "error-event":
            await response.write(b'data: {"error":{"message":"KV load failed","code":500}}\n\n')
            return response
        is_chat = request.path == "/v1/chat/completions"
        said = "".join(each["content"] for each in body["messages"]) if is_chat else body["prompt"]
        prompt = tokens_of(said)
        limit = body.get("max_completion_tokens") or body["max_tokens"]
        first = len(prompt) + self.shift
        written = [TEXT[i % len(TEXT)] for i in range(first, first + limit)]
        created = next(_created)
        kind = "chat.completion.chunk" if is_chat else "text_completion"
        shared = {"id": f"cmpl-{created}", "object": kind, "created": created, "model": MODEL}
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        options = body.get("stream_options") or {}
        returns = bool(body.get("return_token_ids"))
        if is_chat:
            delta = {"role": "assistant", "content": ""}
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
            opening = {"choices": [choice], "prompt_token_ids": prompt if returns else None}
            await response.write(b"data: " + _dump({**shared, **opening}) + b"\n\n")
        turns, start = itertools.cycle(self.at_once), 0
        while start < limit:
            await asyncio.sleep(self.pause)
            if fault == "break" and start > 7:
                request.transport.abort()
                return response
            ids = written[start : start + next(turns)]
            ended = start + len(ids) == limit
            text = decoder.decode(bytes(ids))
            choice = {"delta": self._delta(text, start)} if is_chat else {"text": text}
            choice |= {"index": 0, "token_ids": ids if returns else None}
            choice["finish_reason"] = "length" if ended else None
            if not is_chat:
                choice["prompt_token_ids"] = prompt if returns and not start else None
            payload = {**shared, "choices": [choice]}
            if options.get("continuous_usage_stats"):
                payload["usage"] = _counted(len(prompt), start + len(ids))
            await response.write(b"data: " + _dump(payload) + b"\n\n")
            start += len(ids)
        if options.get("include_usage"):
            closing = {**shared, "choices": [], "usage": _counted(len(prompt), limit)}
            await response.write(b"data: " + _dump(closing) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    def _delta(self, text: str, start: int) -> dict[str, str]:
        if self.parser == "reasoning" and start < 5:
            return {"reasoning": text}
        if self.parser == "dropped" and text == ",":
            return {}
        return {"content": text}


def _counted(prompt: int, answer: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
    }
