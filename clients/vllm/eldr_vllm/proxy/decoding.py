"""The decode of one leg: its engines' events go to the caller, its figures to the booking."""

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

from eldr_client import Move
from eldr_client.traces import Span, Traces

from eldr_vllm.proxy import spans
from eldr_vllm.proxy.bookings import Booking
from eldr_vllm.proxy.engines import Engines, Sent
from eldr_vllm.proxy.errors import EngineFailed, ProxyError
from eldr_vllm.proxy.first_token import FirstToken
from eldr_vllm.proxy.legs import Leg
from eldr_vllm.proxy.metrics import Metrics
from eldr_vllm.proxy.prefilled import Prefilled
from eldr_vllm.proxy.spans import FIRST_TOKEN

# Takes a leg's events one by one, or its complete answer.
Send = Callable[[Leg, Any], Awaitable[None]]
# Books where a move leads, if that is still possible.
Follow = Callable[[Move], Awaitable[Booking | None]]


class Decode:
    """The decode of one leg, over all its attempts."""

    def __init__(
        self,
        engines: Engines,
        metrics: Metrics,
        traces: Traces,
        leg: Leg,
        send: Send,
        follow: Follow,
    ) -> None:
        self._engines = engines
        self._metrics = metrics
        self._traces = traces
        self._leg = leg
        self._send = send
        self._follow = follow
        self._first: FirstToken | None = None
        self._first_time: float | None = None
        self._stopped_at: float | None = None  # for a move, until the answer goes on
        # A decode engine has written something that the caller may have seen; so has this one.
        self.has_begun = self.has_fetched = False

    async def send_first(self, prefilled: Prefilled) -> None:
        """Send the prefill's own token, once."""
        if self._first is None and prefilled.engine:
            self._first = FirstToken(prefilled.answer.payload)
            for event in self._first.events():
                await self._send(self._leg, event)
                self._first_time = time.perf_counter()

    async def run(self, booking: Booking, prefilled: Prefilled) -> Booking | None:
        """One attempt; where the answer is to go on if it has stopped for a move."""
        self.has_fetched = False
        said = spans.of_engine(self._leg, booking.model, booking.engine)
        with self._traces.span("decode", said, kind="client") as span:
            moved = await self._run(booking, prefilled, span)
            span.say(
                {
                    "eldr.attempt": booking.attempt,
                    "gen_ai.usage.output_tokens": booking.output_tokens or None,
                }
            )
            return moved

    async def _run(self, booking: Booking, prefilled: Prefilled, span: Span) -> Booking | None:
        transfer = self._transfer(booking, prefilled)
        if transfer is not None:
            transfer["eldr"].update(self._traces.context())
        body = self._leg.decode_body(transfer)
        if self._leg.is_stream:
            try:
                return await self._stream(booking, body, prefilled.sent, span)
            except (EngineFailed, ProxyError):
                if self._stopped_at is not None:
                    self._count_move("failed")
                raise
        choices = None if self._leg.why_whole else 1
        answer = await self._engines.ask(booking.engine, self._leg, body, prefilled.sent, choices)
        booking.output_tokens = answer.usage.completion
        await self._send(self._leg, answer)
        return None

    async def _stream(
        self, booking: Booking, body: dict[str, Any], sent: Sent, span: Span
    ) -> Booking | None:
        last, preamble = 0.0, []
        async with aclosing(self._engines.stream(booking.engine, self._leg, body, sent)) as events:
            async for written in events:
                event = self._leg.written.take(written) if self._leg.written else written
                if event is None:
                    self.has_fetched = True
                    continue
                if event.usage is not None:
                    booking.output_tokens = event.usage.completion
                if event.is_preamble:  # another engine would repeat it
                    preamble.append(event)
                    continue
                if event.is_comment or event.is_usage_only:
                    await self._send(self._leg, event)
                    continue
                if not self.has_fetched:
                    self.has_begun = self.has_fetched = True
                    span.happened(FIRST_TOKEN)
                for each in preamble:
                    await self._send(self._leg, each)
                preamble.clear()
                left = self._first.cut(event) if self._first else event
                if left is not None:
                    await self._send(self._leg, left)
                last = time.perf_counter()
                self._first_time = self._first_time or last
                if self._stopped_at is not None:
                    self._metrics.move_pause_seconds.observe(last - self._stopped_at)
                    self._count_move("done")
                if not event.ends and (moved := await self._move(booking)):
                    self._stopped_at = last
                    return moved
        if self._first_time is not None and booking.output_tokens > 1:
            booking.decode_duration = last - self._first_time
            per_token = booking.decode_duration / (booking.output_tokens - 1)
            self._metrics.tpot_seconds.observe(per_token)
        return None

    async def _move(self, booking: Booking) -> Booking | None:
        """The booking where the answer should go on now, if it should and may."""
        written = self._leg.written
        move = written.due_move(booking.attempt) if written else None
        if written is None or move is None:
            return None
        if not written.is_plain:
            written.compare(await self._engines.text_of(booking.engine, self._leg, written.ids))
        moved = await self._follow(move) if written.is_plain else None
        if moved is None:
            self._metrics.moves.labels("refused").inc()
        else:
            booking.lease_id = ""  # it has ended with that
        return moved

    def _transfer(self, booking: Booking, prefilled: Prefilled) -> dict[str, Any] | None:
        """Where the KV is; for the shim, which request this is and what is generated of it."""
        kv_transfer_params = prefilled.answer.kv_transfer_params
        if kv_transfer_params is None and not (prefilled.follows and booking.lease_id):
            return None
        said: dict[str, Any] = {
            "request_id": booking.request_id,
            "attempt": booking.attempt,
            "lease_id": booking.lease_id,
        }
        written = self._leg.written
        if written and written.given and self._first_time is not None:
            said["output_tokens"] = written.given
            said["decode_seconds"] = time.perf_counter() - self._first_time
        return {**(kv_transfer_params or {}), "eldr": said}

    def _count_move(self, outcome: str) -> None:
        self._metrics.moves.labels(outcome).inc()
        self._stopped_at = None
