"""The legs' answers put together again: as one stream, or as one object."""

import asyncio
import time
from typing import Any

from aiohttp import web

from eldr_vllm.proxy import sse
from eldr_vllm.proxy.errors import ProxyError
from eldr_vllm.proxy.legs import Leg
from eldr_vllm.proxy.metrics import Metrics


class Stream:
    """Events as they come. A request of one leg passes as it is, but for usage nobody asked for.

    Nothing is sent before the first event, so that until then a failure has its own status.
    vLLM writes its fingerprint on the last event: on the usage, or without it on the last token,
    which therefore waits for the usage that is not sent on.
    """

    def __init__(self, request: web.Request, legs: list[Leg], metrics: Metrics) -> None:
        self._request = request
        self._one = len(legs) == 1
        self._wants_usage = legs[0].wants_usage
        self._metrics = metrics
        self._start = time.perf_counter()
        self._last_tokens: dict[int, bytes] = {}
        self._usage: dict[str, Any] = {}
        self._usages: list[tuple[Leg, dict[str, Any]]] = []
        self._shared: dict[str, Any] = {}
        self._opening = asyncio.Lock()
        self._response: web.StreamResponse | None = None

    @property
    def has_begun(self) -> bool:
        """The status is out."""
        return self._response is not None

    async def send(self, leg: Leg, event: bytes) -> None:
        """One event of a leg."""
        if sse.has_usage_only(event):
            if not self._wants_usage:
                await self._send_last_token(leg, sse.decode(event).get("system_fingerprint"))
                return
            if not self._one:
                self._usage = sse.decode(event)
                self._usages.append((leg, self._usage.get("usage") or {}))
                return
        elif not self._one:
            event = self._renamed(leg, event)
        if sse.ends_sequence(event) and not self._wants_usage:
            self._last_tokens[leg.index] = event
        else:
            await self._write(event)

    async def _send_last_token(self, leg: Leg, fingerprint: str | None) -> None:
        event = self._last_tokens.pop(leg.index, None)
        if event is not None and fingerprint is not None:
            event = sse.encode({**sse.decode(event), "system_fingerprint": fingerprint})
        if event is not None:
            await self._write(event)

    async def _write(self, event: bytes) -> None:
        try:
            response = await self._open()
            await response.write(event)
        except ConnectionResetError:
            # The same as aiohttp's own word that the client has gone, a moment before it.
            raise asyncio.CancelledError from None

    async def finish(self) -> web.StreamResponse:
        """The sum of the usage, and the end."""
        response = await self._open()
        if self._usages:
            await response.write(
                sse.encode({**self._usage, **self._shared, "usage": _sum_usage(self._usages)})
            )
        return await self._end(response)

    async def fail(self, error: ProxyError) -> web.StreamResponse:
        """What went wrong, as vLLM says it after its 200."""
        response = await self._open()
        await response.write(b"data: " + error.body + b"\n\n")
        return await self._end(response)

    async def _end(self, response: web.StreamResponse) -> web.StreamResponse:
        for event in self._last_tokens.values():  # of engines that say nothing of usage
            await response.write(event)
        await response.write(sse.DONE)
        await response.write_eof()
        return response

    async def _open(self) -> web.StreamResponse:
        async with self._opening:
            if self._response is None:
                response = web.StreamResponse(
                    headers={
                        "Content-Type": "text/event-stream; charset=utf-8",
                        "Cache-Control": "no-cache",
                    }
                )
                await response.prepare(self._request)
                self._response = response
                self._metrics.ttft_seconds.observe(time.perf_counter() - self._start)
        return self._response

    def _renamed(self, leg: Leg, event: bytes) -> bytes:
        payload = sse.decode(event)
        if not self._shared:
            self._shared = {name: payload[name] for name in ("id", "created") if name in payload}
        for choice in payload.get("choices", ()):
            choice["index"] = leg.index
        return sse.encode({**payload, **self._shared})


class Whole:
    """One object, the choices in the order of prompts and samples."""

    def __init__(self) -> None:
        self._answers: list[tuple[Leg, dict[str, Any]]] = []

    async def send(self, leg: Leg, answer: dict[str, Any]) -> None:
        """The answer of a leg."""
        self._answers.append((leg, answer))

    def finish(self) -> web.Response:
        """The whole answer."""
        self._answers.sort(key=lambda each: each[0].index)
        answer = dict(self._answers[0][1])
        if answer.get("kv_transfer_params"):
            answer["kv_transfer_params"] = None  # whereabouts inside are nobody's business
        if len(self._answers) > 1:
            answer["choices"] = [
                {**choice, "index": leg.index}
                for leg, each in self._answers
                for choice in each.get("choices", ())
            ]
            answer["usage"] = _sum_usage(
                [(leg, each.get("usage") or {}) for leg, each in self._answers]
            )
        return web.json_response(answer)


def _sum_usage(usages: list[tuple[Leg, dict[str, Any]]]) -> dict[str, Any]:
    """Each prompt counts once, each sequence's tokens count."""
    prompt = sum(usage.get("prompt_tokens", 0) for leg, usage in usages if leg.sample == 0)
    completion = sum(usage.get("completion_tokens", 0) for _, usage in usages)
    return {
        **usages[0][1],
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
