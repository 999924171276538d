"""The decode of one leg: what comes of its engines goes to the caller, and into the booking."""

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

from eldr_client.traces import Span, Traces

from eldr_vllm.proxy import spans
from eldr_vllm.proxy.bookings import Booking
from eldr_vllm.proxy.engines import Engines, Sent
from eldr_vllm.proxy.first_token import FirstToken
from eldr_vllm.proxy.legs import Leg
from eldr_vllm.proxy.metrics import Metrics
from eldr_vllm.proxy.prefilled import Prefilled
from eldr_vllm.proxy.spans import FIRST_TOKEN

# Takes a leg's events one by one, or its whole answer.
Send = Callable[[Leg, Any], Awaitable[None]]


class Decode:
    """The decode of one leg, over all its attempts."""

    def __init__(
        self, engines: Engines, metrics: Metrics, traces: Traces, leg: Leg, send: Send
    ) -> None:
        self._engines = engines
        self._metrics = metrics
        self._traces = traces
        self._leg = leg
        self._send = send
        self._first: FirstToken | None = None
        self._first_time: float | None = None
        # A decode engine has written something that the caller may have seen.
        self.has_begun = False

    async def send_first(self, prefilled: Prefilled) -> None:
        """The prefill's own token, once."""
        if self._first is None and prefilled.engine:
            self._first = FirstToken(prefilled.answer.payload)
            for event in self._first.events():
                await self._send(self._leg, event)
                self._first_time = time.perf_counter()

    async def run(self, booking: Booking, prefilled: Prefilled) -> None:
        """One attempt."""
        said = spans.of_engine(self._leg, booking.model, booking.engine)
        with self._traces.span("decode", said, kind="client") as span:
            await self._run(booking, prefilled, span)
            span.say(
                {
                    "eldr.attempt": booking.attempt,
                    "gen_ai.usage.output_tokens": booking.output_tokens or None,
                }
            )

    async def _run(self, booking: Booking, prefilled: Prefilled, span: Span) -> None:
        transfer = _transfer(booking, prefilled)
        if transfer is not None:
            transfer["eldr"].update(self._traces.context())
        body = self._leg.decode_body(transfer)
        if self._leg.is_stream:
            await self._stream(booking, body, prefilled.sent, span)
            return
        choices = None if self._leg.why_whole else 1
        answer = await self._engines.ask(booking.engine, self._leg, body, prefilled.sent, choices)
        booking.output_tokens = answer.usage.completion
        await self._send(self._leg, answer)

    async def _stream(self, booking: Booking, body: dict[str, Any], sent: Sent, span: Span) -> None:
        last, preamble = 0.0, []
        async with aclosing(self._engines.stream(booking.engine, self._leg, body, sent)) as events:
            async for event in events:
                if event.usage is not None:
                    booking.output_tokens = event.usage.completion
                if event.is_preamble:  # another engine would send it again
                    preamble.append(event)
                    continue
                if event.is_comment or event.is_usage_only:
                    await self._send(self._leg, event)
                    continue
                if not self.has_begun:
                    self.has_begun = True
                    span.happened(FIRST_TOKEN)
                for each in preamble:
                    await self._send(self._leg, each)
                preamble.clear()
                left = self._first.cut(event) if self._first else event
                if left is not None:
                    await self._send(self._leg, left)
                last = time.perf_counter()
                self._first_time = self._first_time or last
        if self._first_time is not None and booking.output_tokens > 1:
            booking.decode_duration = last - self._first_time
            per_token = booking.decode_duration / (booking.output_tokens - 1)
            self._metrics.tpot_seconds.observe(per_token)


def _transfer(booking: Booking, prefilled: Prefilled) -> dict[str, Any] | None:
    """The KV's whereabouts, and for the shim whose request this is."""
    kv_transfer_params = prefilled.answer.kv_transfer_params
    if kv_transfer_params is None and not (prefilled.follows and booking.lease_id):
        return None
    identity = {
        "request_id": booking.request_id,
        "attempt": booking.attempt,
        "lease_id": booking.lease_id,
    }
    return {**(kv_transfer_params or {}), "eldr": identity}
