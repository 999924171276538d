"""Serves one leg: prefill, placement, decode, and retries while its caller has seen nothing."""

import asyncio
import itertools
import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace

from eldr_client import Move
from eldr_client.traces import Traces

from eldr_vllm.proxy import spans
from eldr_vllm.proxy.affinity import Affinity
from eldr_vllm.proxy.bookings import Booking
from eldr_vllm.proxy.cooldown import CoolDown
from eldr_vllm.proxy.decoding import Decode, Send
from eldr_vllm.proxy.engines import Engines, Sent
from eldr_vllm.proxy.errors import EngineBusy, EngineErred, EngineFailed, ProxyError, no_worker
from eldr_vllm.proxy.fleet import Engine, Fleet
from eldr_vllm.proxy.legs import Leg
from eldr_vllm.proxy.metrics import Metrics
from eldr_vllm.proxy.moving import Moves
from eldr_vllm.proxy.prefilled import Prefilled
from eldr_vllm.proxy.ring import Ring
from eldr_vllm.proxy.routing import Routing
from eldr_vllm.proxy.said import Answer
from eldr_vllm.proxy.settings import Settings

logger = logging.getLogger("eldr_proxy")

# After so many seconds an aborted decode no longer reads the KV. If the blocks were freed earlier,
# they could be overwritten while it still reads them, into its prefix cache.
ABORT_SECONDS = 0.3


class BrokenOffError(ProxyError):
    """The decode failed after its first token; no engine can continue it."""

    def __init__(self, failure: EngineFailed) -> None:
        super().__init__(502, f"the decode failed after its first token: {failure}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Everything needed to serve a leg."""

    settings: Settings
    fleet: Fleet
    affinity: Affinity
    ring: Ring
    prefill_cooldown: CoolDown
    engines: Engines
    routing: Routing
    metrics: Metrics
    traces: Traces
    moves: Moves | None = None

    async def run(self, leg: Leg, send: Send, *, may_send_first: bool) -> None:
        """Serve a leg. However it ends, its booking ends too, and its KV is fetched or discarded.

        Raises
        ------
        ProxyError
            The answer for the caller instead.
        """
        way = _Way(self, leg, send, may_send_first)
        try:
            with self.moves.follow(leg) if self.moves else nullcontext():
                await way.go()
        except asyncio.CancelledError:
            # vLLM frees the KV of a request that it aborts, but not of one that it never accepted.
            if way.prefilled and way.prefilled.sent and not way.decode.has_fetched:
                way.discard(ABORT_SECONDS)
            raise
        finally:
            if way.prefilled and not way.prefilled.sent:
                way.discard()
            if way.may_be_booked and not way.is_placed:
                self.routing.forget(leg)
            if way.ahead:
                self.routing.forget(leg, way.ahead.attempt)


class _Way:
    """The state of one leg so far."""

    def __init__(self, serving: Serving, leg: Leg, send: Send, may_send_first: bool) -> None:
        self._serving = serving
        self._leg = leg
        self._may_send_first = may_send_first
        self._epochs, self._attempts = itertools.count(), itertools.count()
        self._tries = serving.settings.attempts  # that are left
        self._failed: set[str] = set()  # decode engines
        self._suspects: set[str] = set()  # prefill engines whose KV none of them could use
        self.prefilled: Prefilled | None = None
        engines, metrics, traces = serving.engines, serving.metrics, serving.traces
        self.decode = Decode(engines, metrics, traces, leg, send, self._follow)
        # Whether a prefill engine may have placed the leg. Once the proxy has placed it, it knows.
        self.may_be_booked = self.is_placed = False
        # Booked for a move, while the engine before is still to be stopped.
        self.ahead: Booking | None = None

    async def go(self) -> None:
        """Run to the end of the answer, or raise a ProxyError."""
        refusal = ProxyError(502, "no decode worker could serve the request")
        while self._tries > 0:
            self._tries -= 1
            if self.prefilled is None:
                self.prefilled = await self._prefill()
            if self._may_send_first:
                await self.decode.send_first(self.prefilled)
            try:
                booking = await self._decode_once(self.prefilled)
                while booking:
                    booking = await self._go_on(booking)
                return
            except EngineFailed as failure:
                logger.warning("%s: decode failed: %s", self._leg.request_id, failure)
                if self.decode.has_begun:
                    if not await self._can_go_on():
                        raise BrokenOffError(failure) from failure
                    refusal = BrokenOffError(failure)
                    self._leg.go_on()
                self._serving.metrics.retries.labels("decode").inc()
                self._prepare_next(self.prefilled, failure)
                if isinstance(failure, EngineBusy):
                    refusal = failure.refusal
                    if self._another() is None:
                        break
            except ProxyError:
                self.prefilled.sent.is_true = False  # refused, maybe before vLLM minds the KV
                raise
        raise refusal

    def discard(self, delay: float = 0.0) -> None:
        """Free the KV, if there is any."""
        if self.prefilled is None or self.prefilled.answer.kv_transfer_params is None:
            return
        serving, leg = self._serving, self._leg
        serving.metrics.discarded.inc()
        decoders = serving.fleet.decode(serving.routing.model(leg), self.prefilled.group)
        avoided = self._failed | serving.routing.avoided(self.prefilled)
        decoders.sort(key=lambda engine: engine.worker_id in avoided)
        serving.engines.discard(decoders, leg, self.prefilled.answer.kv_transfer_params, delay)

    async def _decode_once(self, prefilled: Prefilled) -> Booking | None:
        routing = self._serving.routing
        booking = await routing.place(self._leg, prefilled, self._attempts, self._failed)
        if self._leg.written and self._serving.moves and booking.lease_id:
            self._serving.moves.watch(booking.model)
        with routing.hold(booking):
            self.is_placed = True
            return await self._decode_at(booking, prefilled)

    async def _decode_at(self, booking: Booking, prefilled: Prefilled) -> Booking | None:
        """The booking where a move has it go on, if one has."""
        if prefilled.has_kv and prefilled.engine:
            booking.kv_from = prefilled.engine.worker_id
        try:
            return await self.decode.run(booking, prefilled)
        except EngineFailed:
            self._failed |= booking.worker_ids
            raise
        except ProxyError as refusal:
            if not self._leg.goes_on:
                raise
            # Another engine took the request, so this one has other limits.
            self._failed |= booking.worker_ids
            raise EngineBusy(str(refusal), refusal) from refusal

    async def _follow(self, move: Move) -> Booking | None:
        assert self.prefilled is not None
        attempt = next(self._attempts)
        follow = self._serving.routing.follow
        self.ahead = await follow(self._leg, move, self.prefilled, attempt, self._failed)
        return self.ahead

    async def _go_on(self, booking: Booking) -> Booking | None:
        """Have what is written prefilled, and go on where a move has booked."""
        self._tries += 1  # the move may cost the request none
        self._may_send_first = False
        self._leg.go_on()
        with self._serving.routing.hold(booking):
            self.ahead = self.prefilled = None
            self.prefilled = await self._prefill(booking.engine.group)
            return await self._decode_at(booking, self.prefilled)

    def _prepare_next(self, prefilled: Prefilled, failure: EngineFailed) -> None:
        if prefilled.engine and isinstance(failure, EngineErred):
            self._suspects.add(prefilled.engine.worker_id)
        if prefilled.sent:
            # Its blocks may have been fetched and freed by now.
            self.discard()
            self.prefilled = None

    async def _can_go_on(self) -> bool:
        """Whether another engine can continue; it tells what the tokens of a chat stand for."""
        written, another = self._leg.written, self._another()
        if written is None:
            return False
        if another and not written.is_plain:
            engines = self._serving.engines
            written.compare(await engines.text_of(another, self._leg, written.ids))
        return written.can_go_on

    def _another(self) -> Engine | None:
        """A decode engine that has not failed."""
        decoders = self._serving.fleet.decode(self._serving.routing.model(self._leg))
        return next((each for each in decoders if each.worker_id not in self._failed), None)

    async def _prefill(self, group: str = "") -> Prefilled:
        """Prefill; `group` is where the KV must be usable, empty for anywhere."""
        leg = self._leg
        if self._serving.settings.without_prefill_workers:
            return Prefilled(follows=leg.sequences == 1)
        if leg.why_whole:
            return self._handed_over()
        if leg.sample:
            await leg.prefix_cached.wait()
        try:
            return await self._prefill_somewhere(group)
        except ProxyError as error:
            if not leg.goes_on:
                raise
            logger.warning("%s continues without a prefill engine: %s", leg.request_id, error)
            return Prefilled()
        finally:
            leg.prefix_cached.set()

    def _handed_over(self) -> Prefilled:
        """The prefill that the request came with, once; without its KV if that is of no use."""
        answer, self._leg.handed_over = self._leg.handed_over, None
        if answer is None:
            return Prefilled()
        self.may_be_booked = answer.handoff is not None
        prefilled = Prefilled(answer=answer)
        if self._leg.takes_kv:
            return prefilled
        self.prefilled = prefilled
        self.discard()
        return Prefilled(answer=replace(answer, kv_transfer_params=None))

    async def _prefill_somewhere(self, group: str) -> Prefilled:
        serving, leg = self._serving, self._leg
        model = serving.routing.model(leg)
        engines = serving.fleet.prefill(model, group)
        if not engines and serving.settings.accept_prefilled:
            return Prefilled()
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
                    # The decode engine will tell whether the request is at fault, or the one token.
                    return Prefilled()
        raise refusal

    async def _prefill_at(self, engine: Engine) -> Prefilled:
        serving, leg = self._serving, self._leg
        start = time.perf_counter()
        said = spans.of_engine(leg, serving.routing.model(leg), engine)
        before, self.may_be_booked = self.may_be_booked, True
        with serving.traces.span("prefill", said, kind="client") as span:
            try:
                answer = await self._ask_prefill(engine)
            except (ProxyError, EngineBusy):
                self.may_be_booked = before
                raise
            span.say({"gen_ai.usage.input_tokens": answer.usage.prompt or None})
        self.may_be_booked = before or answer.handoff is not None
        serving.prefill_cooldown.succeeded([engine.worker_id])
        serving.metrics.prefill_seconds.observe(time.perf_counter() - start)
        return Prefilled(engine, answer)

    async def _ask_prefill(self, engine: Engine) -> Answer:
        serving, leg = self._serving, self._leg
        body = leg.prefill_body(next(self._epochs), keeps_token=self._may_send_first)
        # The span for the shim: vLLM drops the header unless it has its own traces.
        body["kv_transfer_params"]["eldr"].update(serving.traces.context())
        choices = 1 if self._may_send_first else None
        return await serving.engines.ask(engine, leg, body, Sent(), choices)
