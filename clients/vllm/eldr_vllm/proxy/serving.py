"""One leg's way: prefilled, placed, decoded, and tried again while its caller has seen nothing."""

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from eldr_vllm.proxy import sse
from eldr_vllm.proxy.cooldown import CoolDown
from eldr_vllm.proxy.engines import EngineFailed, Engines, Sent
from eldr_vllm.proxy.errors import ProxyError, no_worker
from eldr_vllm.proxy.first_token import FirstToken
from eldr_vllm.proxy.fleet import Fleet
from eldr_vllm.proxy.legs import Leg
from eldr_vllm.proxy.metrics import Metrics
from eldr_vllm.proxy.prefilled import Prefilled
from eldr_vllm.proxy.ring import Ring
from eldr_vllm.proxy.routing import Booking, Routing
from eldr_vllm.proxy.settings import Settings

logger = logging.getLogger("eldr_proxy")

# Within so many seconds an aborted decode has let go of the KV. Were the blocks freed earlier, they
# could be filled anew while it still reads them, into its prefix cache.
ABORT_SECONDS = 0.3

# Takes a leg's events one by one, or its whole answer.
Send = Callable[[Leg, Any], Awaitable[None]]


class BrokenOffError(ProxyError):
    """The decode failed after its first token; nobody can go on where it stopped."""

    def __init__(self, failure: EngineFailed) -> None:
        super().__init__(502, f"the decode broke off: {failure}")


@dataclass(frozen=True, slots=True)
class Serving:
    """What it takes to serve a leg."""

    settings: Settings
    fleet: Fleet
    ring: Ring
    prefill_cooldown: CoolDown
    engines: Engines
    routing: Routing
    metrics: Metrics

    async def run(self, leg: Leg, send: Send, *, may_send_first: bool) -> None:
        """Serve a leg. However it ends, its booking ends too, and its KV is fetched or discarded.

        Raises
        ------
        ProxyError
            What the caller is to be told instead.
        """
        epochs, attempts = itertools.count(), itertools.count()
        failed: set[str] = set()
        prefilled: Prefilled | None = None
        decode: _Decode | None = None
        try:
            for _ in range(self.settings.attempts):
                if prefilled is None:
                    prefilled = await self._prefill(leg, epochs, may_send_first)
                if decode is None:
                    first = FirstToken(prefilled.answer) if may_send_first else None
                    decode = _Decode(self, leg, send, first)
                    await decode.send_first()
                try:
                    async with self.routing.place(leg, prefilled, attempts, failed) as booking:
                        await decode.run(booking, prefilled)
                        return
                except EngineFailed as failure:
                    logger.warning("%s: decode failed: %s", leg.request_id, failure)
                    if decode.has_begun:
                        raise BrokenOffError(failure) from failure
                    self.metrics.retries.labels("decode").inc()
                    failed |= booking.worker_ids
                    if prefilled.sent:
                        # Nobody knows whether its blocks were fetched and are freed by now.
                        self._discard(leg, prefilled, failed)
                        prefilled = None
                except ProxyError:
                    prefilled.sent.is_true = False  # refused, maybe before vLLM minds the KV
                    raise
            raise ProxyError(502, "no decode worker could serve the request")
        except asyncio.CancelledError:
            # vLLM frees the KV of a request that it aborts, but not of one that it never took in.
            if prefilled is not None and prefilled.sent and decode and not decode.has_begun:
                self._discard(leg, prefilled, failed, ABORT_SECONDS)
            raise
        finally:
            if prefilled is not None and not prefilled.sent:
                self._discard(leg, prefilled, failed)

    async def _prefill(self, leg: Leg, epochs: Iterator[int], keeps_token: bool) -> Prefilled:
        if leg.needs_no_prefill:
            return Prefilled()
        if leg.sample:
            await leg.prefix_cached.wait()
        try:
            return await self._prefill_somewhere(leg, epochs, keeps_token)
        except asyncio.CancelledError:
            self.routing.forget(leg)
            raise
        finally:
            leg.prefix_cached.set()

    async def _prefill_somewhere(
        self, leg: Leg, epochs: Iterator[int], keeps_token: bool
    ) -> Prefilled:
        model = self.routing.model(leg)
        engines = self.fleet.prefill(model)
        if not engines:
            raise no_worker(f"no prefill worker of {model!r} is known")
        key = leg.prefix_key(self.settings.prefix_length)
        while engines:
            with self.ring.hold(key, self.prefill_cooldown.spare(engines)) as engine:
                start = time.perf_counter()
                try:
                    body = leg.prefill_body(next(epochs), keeps_token=keeps_token)
                    answer = await self.engines.ask(engine, leg, body, Sent())
                except EngineFailed as failure:
                    logger.warning("%s: prefill failed: %s", leg.request_id, failure)
                    self.metrics.retries.labels("prefill").inc()
                    self.prefill_cooldown.failed([engine.worker_id])
                    engines = [each for each in engines if each is not engine]
                    continue
                self.prefill_cooldown.succeeded([engine.worker_id])
                self.metrics.prefill_seconds.observe(time.perf_counter() - start)
                return Prefilled.of(engine, answer)
        raise ProxyError(502, "no prefill worker could serve the request")

    def _discard(
        self, leg: Leg, prefilled: Prefilled, failed: set[str], delay: float = 0.0
    ) -> None:
        if prefilled.kv_transfer_params is None:
            return
        self.metrics.discarded.inc()
        decoders = self.fleet.decode(self.routing.model(leg), prefilled.group)
        avoided = failed | self.routing.cooldown.worker_ids
        decoders.sort(key=lambda engine: engine.worker_id in avoided)
        self.engines.discard(decoders, leg, prefilled.kv_transfer_params, delay)


class _Decode:
    """The decode of one leg, over all its attempts."""

    def __init__(self, serving: Serving, leg: Leg, send: Send, first: FirstToken | None) -> None:
        self._engines = serving.engines
        self._metrics = serving.metrics
        self._leg = leg
        self._send = send
        self._first = first
        self._first_time: float | None = None
        # A decode engine has written something that the caller may have seen.
        self.has_begun = False

    async def send_first(self) -> None:
        """The prefill's own token, where that is wanted."""
        for event in self._first.events() if self._first else ():
            await self._send(self._leg, event)
            self._first_time = time.perf_counter()

    async def run(self, booking: Booking, prefilled: Prefilled) -> None:
        """One attempt."""
        body = self._leg.decode_body(_transfer(booking, prefilled))
        if self._leg.is_stream:
            await self._stream(booking, body, prefilled.sent)
            return
        answer = await self._engines.ask(booking.engine, self._leg, body, prefilled.sent)
        booking.output_tokens = _completion_tokens(answer)
        await self._send(self._leg, answer)

    async def _stream(self, booking: Booking, body: dict[str, Any], sent: Sent) -> None:
        last = 0.0
        async with aclosing(self._engines.stream(booking.engine, self._leg, body, sent)) as events:
            async for event in events:
                if sse.has_usage_only(event):
                    booking.output_tokens = _completion_tokens(sse.decode(event))
                    await self._send(self._leg, event)
                    continue
                self.has_begun = True
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
    if prefilled.kv_transfer_params is None:
        return None
    identity = {
        "request_id": booking.request_id,
        "attempt": booking.attempt,
        "lease_id": booking.lease_id,
    }
    return {**prefilled.kv_transfer_params, "eldr": identity}


def _completion_tokens(answer: dict[str, Any]) -> int:
    return int((answer.get("usage") or {}).get("completion_tokens") or 0)
