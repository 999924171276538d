"""Merges the legs' answers: into one stream, or one object."""

import asyncio
import time
from collections import Counter, defaultdict
from typing import Any

from aiohttp import web
from eldr_client.traces import Span

from eldr_vllm.proxy import sse
from eldr_vllm.proxy.errors import ProxyError
from eldr_vllm.proxy.legs import Leg
from eldr_vllm.proxy.metrics import Metrics
from eldr_vllm.proxy.said import Answer, Event
from eldr_vllm.proxy.spans import FIRST_TOKEN


class Stream:
    """Events as they come. The events of a single leg pass unchanged, less usage not asked for.

    Nothing is sent before the first event, so that a failure until then has its own status. vLLM
    writes its fingerprint on the last event: on the usage, or without usage on the last token,
    which therefore waits for the usage that is not sent on.
    """

    def __init__(self, request: web.Request, legs: list[Leg], metrics: Metrics, span: Span) -> None:
        self._request = request
        self._one = len(legs) == 1
        self._endpoint = legs[0].endpoint
        self._wants_usage = legs[0].wants_usage
        self._metrics = metrics
        self._span = span
        self._start = time.perf_counter()
        self._last_tokens: defaultdict[int, list[Event]] = defaultdict(list)
        self._usage: dict[str, Any] = {}
        self._usages: list[tuple[Leg, dict[str, Any]]] = []
        self._shared: dict[str, Any] = {}
        self._opening = asyncio.Lock()
        self._response: web.StreamResponse | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the status has been sent."""
        return self._response is not None

    async def send(self, leg: Leg, event: Event) -> None:
        """Send one event of a leg."""
        if event.is_usage_only:
            if not self._wants_usage:
                await self._send_last_tokens(leg, event.payload.get("system_fingerprint"))
                return
            if not self._one:
                self._usage = event.payload
                self._usages.append((leg, self._usage.get("usage") or {}))
                return
        elif not self._one and event.payload:
            event = self._renamed(leg, event)
        if event.ends and self._endpoint.has_choices and not self._wants_usage:
            self._last_tokens[leg.index].append(event)
        else:
            await self._write(event.raw)

    async def _send_last_tokens(self, leg: Leg, fingerprint: Any) -> None:
        for event in self._last_tokens.pop(leg.index, ()):
            if fingerprint is None:
                await self._write(event.raw)
            else:
                stamped = {**event.payload, "system_fingerprint": fingerprint}
                await self._write(sse.encode(stamped))

    async def _write(self, data: bytes) -> None:
        try:
            response = await self._open()
            await response.write(data)
        except ConnectionResetError:
            # What aiohttp raises when the client has gone, a moment earlier.
            raise asyncio.CancelledError from None

    async def finish(self) -> web.StreamResponse:
        """Send the total usage, and end the stream."""
        for events in self._last_tokens.values():  # of engines that do not report usage
            for event in events:
                await self._write(event.raw)
        if self._usages:
            summed = {**self._usage, **self._shared, "usage": _sum_usage(self._usages)}
            await self._write(sse.encode(summed))
        return await self._end(sse.DONE if self._endpoint.has_choices else b"")

    async def fail(self, error: ProxyError) -> web.StreamResponse:
        """Report a failure as vLLM does after its 200."""
        return await self._end(self._endpoint.failure(error))

    async def _end(self, data: bytes) -> web.StreamResponse:
        response = await self._open()
        if data:
            await self._write(data)
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
                seconds = time.perf_counter() - self._start
                self._metrics.ttft_seconds.observe(seconds)
                self._span.happened(FIRST_TOKEN)
                self._span.say({"gen_ai.response.time_to_first_chunk": seconds})
        return self._response

    def _renamed(self, leg: Leg, event: Event) -> Event:
        payload = event.payload
        if not self._shared:
            self._shared = {name: payload[name] for name in ("id", "created") if name in payload}
        for choice in payload["choices"]:
            choice["index"] = leg.index
        event.payload = {**payload, **self._shared}
        event.raw = sse.encode(event.payload)
        return event


class Whole:
    """One object, with the choices in the order of prompts and samples."""

    def __init__(self) -> None:
        self._answers: list[tuple[Leg, dict[str, Any]]] = []

    async def send(self, leg: Leg, answer: Answer) -> None:
        """Take the answer of a leg."""
        self._answers.append((leg, answer.payload))

    def finish(self) -> web.Response:
        """Return the complete answer."""
        self._answers.sort(key=lambda each: each[0].index)
        answer = dict(self._answers[0][1])
        if len(self._answers) > 1:
            answer["choices"] = [
                {**choice, "index": leg.index}
                for leg, each in self._answers
                for choice in each["choices"]
            ]
            answer["usage"] = _sum_usage(
                [(leg, each.get("usage") or {}) for leg, each in self._answers]
            )
        return web.json_response(answer)


def _sum_usage(usages: list[tuple[Leg, dict[str, Any]]]) -> dict[str, Any]:
    """Prompts count once, and all sequences' tokens count."""
    prompts = [usage for leg, usage in usages if leg.sample == 0]
    answers = [usage for _, usage in usages]
    summed = {
        **usages[0][1],
        "prompt_tokens": sum(usage.get("prompt_tokens") or 0 for usage in prompts),
        "completion_tokens": sum(usage.get("completion_tokens") or 0 for usage in answers),
    }
    summed["total_tokens"] = summed["prompt_tokens"] + summed["completion_tokens"]
    for name, parts in (("prompt_tokens_details", prompts), ("completion_tokens_details", answers)):
        if summed.get(name):
            summed[name] = _sum_details([part.get(name) for part in parts])
    return summed


def _sum_details(parts: list[Any]) -> dict[str, int]:
    summed: Counter[str] = Counter()
    for part in parts:
        for name, count in part.items() if isinstance(part, dict) else ():
            if type(count) is int:
                summed[name] += count
    return dict(summed)
