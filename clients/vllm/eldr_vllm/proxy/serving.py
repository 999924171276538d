"""One leg's way: prefilled, placed, decoded, and tried again while its caller has seen nothing."""

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from eldr_vllm.proxy.affinity import Affinity
from eldr_vllm.proxy.cooldown import CoolDown
from eldr_vllm.proxy.engines import Engines, Sent
from eldr_vllm.proxy.errors import EngineBusy, EngineErred, EngineFailed, ProxyError, no_worker
from eldr_vllm.proxy.first_token import FirstToken
from eldr_vllm.proxy.fleet import Engine, Fleet
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
    affinity: Affinity
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
        way = _Way(self, leg, send, may_send_first)
        try:
            await way.go()
        except asyncio.CancelledError:
            # vLLM frees the KV of a request that it aborts, but not of one that it never took in.
            if way.prefilled and way.prefilled.sent and not way.decode.has_begun:
                way.discard(ABORT_SECONDS)
            raise
        finally:
            if way.prefilled and not way.prefilled.sent:
                way.discard()
            if way.may_be_booked and not way.is_placed:
                self.routing.forget(leg)


class _Way:
    """What has come about for one leg so far."""

    def __init__(self, serving: Serving, leg: Leg, send: Send, may_send_first: bool) -> None:
        self._serving = serving
        self._leg = leg
        self._may_send_first = may_send_first
        self._epochs, self._attempts = itertools.count(), itertools.count()
        self._failed: set[str] = set()  # decode engines
        self._suspects: set[str] = set()  # prefill engines whose KV none of those could use
        self.prefilled: Prefilled | None = None
        self.decode = _Decode(serving, leg, send)
        # A prefill engine may have had the leg placed. Once the proxy has placed it, it knows.
        self.may_be_booked = self.is_placed = False

    async def go(self) -> None:
        """To the end of the answer, or a ProxyError."""
        refusal = ProxyError(502, "no decode worker could serve the request")
        for _ in range(self._serving.settings.attempts):
            if self.prefilled is None:
                self.prefilled = await self._prefill()
            if self._may_send_first:
                await self.decode.send_first(self.prefilled)
            try:
                await self._decode_once(self.prefilled)
                return
            except EngineFailed as failure:
                logger.warning("%s: decode failed: %s", self._leg.request_id, failure)
                if self.decode.has_begun:
                    raise BrokenOffError(failure) from failure
                self._serving.metrics.retries.labels("decode").inc()
                self._prepare_next(self.prefilled, failure)
                if isinstance(failure, EngineBusy):
                    refusal = failure.refusal
                    if not self._knows_another():
                        break
            except ProxyError:
                self.prefilled.sent.is_true = False  # refused, maybe before vLLM minds the KV
                raise
        raise refusal

    def discard(self, delay: float = 0.0) -> None:
        """Have the KV freed, if there is any."""
        if self.prefilled is None or self.prefilled.answer.kv_transfer_params is None:
            return
        serving, leg = self._serving, self._leg
        serving.metrics.discarded.inc()
        decoders = serving.fleet.decode(serving.routing.model(leg), self.prefilled.group)
        avoided = self._failed | serving.routing.avoided(self.prefilled)
        decoders.sort(key=lambda engine: engine.worker_id in avoided)
        serving.engines.discard(decoders, leg, self.prefilled.answer.kv_transfer_params, delay)

    async def _decode_once(self, prefilled: Prefilled) -> None:
        place = self._serving.routing.place(self._leg, prefilled, self._attempts, self._failed)
        async with place as booking:
            self.is_placed = True
            try:
                await self.decode.run(booking, prefilled)
            except EngineFailed:
                self._failed |= booking.worker_ids
                raise

    def _prepare_next(self, prefilled: Prefilled, failure: EngineFailed) -> None:
        if prefilled.engine and isinstance(failure, EngineErred):
            self._suspects.add(prefilled.engine.worker_id)
        if prefilled.sent:
            # Nobody knows whether its blocks were fetched and are freed by now.
            self.discard()
            self.prefilled = None

    def _knows_another(self) -> bool:
        decoders = self._serving.fleet.decode(self._serving.routing.model(self._leg))
        return any(engine.worker_id not in self._failed for engine in decoders)

    async def _prefill(self) -> Prefilled:
        leg = self._leg
        if leg.why_whole:
            return Prefilled()
        if leg.sample:
            await leg.prefix_cached.wait()
        try:
            return await self._prefill_somewhere()
        finally:
            leg.prefix_cached.set()

    async def _prefill_somewhere(self) -> Prefilled:
        serving, leg = self._serving, self._leg
        model = serving.routing.model(leg)
        engines = serving.fleet.prefill(model)
        if not engines:
            raise no_worker(f"no prefill worker of {model!a} is known")
        refusal = ProxyError(502, "no prefill worker could serve the request")
        key = serving.affinity.key(leg, len(engines))
        while engines:
            unsuspected = [each for each in engines if each.worker_id not in self._suspects]
            spared = serving.prefill_cooldown.spare(unsuspected or engines)
            with serving.ring.hold(key, spared) as engine:
                try:
                    return await self._prefill_at(engine)
                except EngineFailed as failure:
                    logger.warning("%s: prefill failed: %s", leg.request_id, failure)
                    if isinstance(failure, EngineErred) and leg.forces_tool:
                        return Prefilled()
                    serving.metrics.retries.labels("prefill").inc()
                    if isinstance(failure, EngineBusy):
                        refusal = failure.refusal
                    else:
                        serving.prefill_cooldown.failed([engine.worker_id])
                    engines = [each for each in engines if each is not engine]
                except ProxyError as error:
                    if error.status != 400 or not leg.forces_tool:
                        raise
                    # The decode engine will say whether it is the request, or the one token.
                    return Prefilled()
        raise refusal

    async def _prefill_at(self, engine: Engine) -> Prefilled:
        serving, leg = self._serving, self._leg
        start = time.perf_counter()
        body = leg.prefill_body(next(self._epochs), keeps_token=self._may_send_first)
        choices = 1 if self._may_send_first else None
        before, self.may_be_booked = self.may_be_booked, True
        try:
            answer = await serving.engines.ask(engine, leg, body, Sent(), choices)
        except (ProxyError, EngineBusy):
            self.may_be_booked = before
            raise
        self.may_be_booked = before or answer.has_shim
        serving.prefill_cooldown.succeeded([engine.worker_id])
        serving.metrics.prefill_seconds.observe(time.perf_counter() - start)
        return Prefilled(engine, answer)


class _Decode:
    """The decode of one leg, over all its attempts."""

    def __init__(self, serving: Serving, leg: Leg, send: Send) -> None:
        self._engines = serving.engines
        self._metrics = serving.metrics
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
        body = self._leg.decode_body(_transfer(booking, prefilled))
        if self._leg.is_stream:
            await self._stream(booking, body, prefilled.sent)
            return
        choices = None if self._leg.why_whole else 1
        answer = await self._engines.ask(booking.engine, self._leg, body, prefilled.sent, choices)
        booking.output_tokens = answer.usage.completion
        await self._send(self._leg, answer)

    async def _stream(self, booking: Booking, body: dict[str, Any], sent: Sent) -> None:
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
                self.has_begun = True
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
    if kv_transfer_params is None:
        return None
    identity = {
        "request_id": booking.request_id,
        "attempt": booking.attempt,
        "lease_id": booking.lease_id,
    }
    return {**kv_transfer_params, "eldr": identity}
