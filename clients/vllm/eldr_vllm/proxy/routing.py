"""Where a prefilled leg decodes: as the daemon says, or in turn if it does not answer."""

import itertools
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from eldr_client import (
    EldrError,
    Handoff,
    Move,
    Placement,
    ReleaseOutcome,
    RouterUnavailableError,
    errors,
    span_attributes,
)
from eldr_client.aio import RouterClient
from eldr_client.messages import RouteFields
from eldr_client.traces import Span, Traces

from eldr_vllm.prefix_hashes import BLOCK_TOKENS
from eldr_vllm.proxy.bookings import Booking, Bookings
from eldr_vllm.proxy.cooldown import CoolDown
from eldr_vllm.proxy.errors import EngineBusy, EngineErred, EngineFailed, ProxyError, no_worker
from eldr_vllm.proxy.fleet import Engine, Fleet
from eldr_vllm.proxy.legs import Leg
from eldr_vllm.proxy.links import Links
from eldr_vllm.proxy.metrics import Metrics
from eldr_vllm.proxy.prefilled import Prefilled
from eldr_vllm.proxy.prefix_hashes import of_leg
from eldr_vllm.proxy.settings import Settings

logger = logging.getLogger("eldr_proxy")

FALLBACK = "CLIENT_FALLBACK"
MAX_REFUSALS = 8


class Routing:
    """Asks the daemon, if there is one, and otherwise takes engines in turn."""

    def __init__(
        self,
        settings: Settings,
        fleet: Fleet,
        metrics: Metrics,
        client: RouterClient | None,
        bookings: Bookings,
        prefill_cooldown: CoolDown,
        cooldown: CoolDown,
        traces: Traces,
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._metrics = metrics
        self._client = client
        self.cooldown = cooldown  # of decode engines
        self._links = Links(prefill_cooldown, cooldown)
        self._turn = itertools.count()
        self._bookings = bookings
        self._traces = traces

    def model(self, leg: Leg) -> str:
        """The model's name at the daemon."""
        return self._settings.model or leg.model

    async def is_reachable(self, timeout: float = 0.2) -> bool:
        """Whether the daemon answers."""
        if self._client is None:
            return False
        model = self._settings.model or "eldr-proxy"
        try:
            placement = await self._client.route(
                model, "eldr-proxy-hello", dry_run=True, timeout=timeout
            )
        except RouterUnavailableError:
            return False
        except EldrError:
            return True
        return not placement.is_fallback

    async def place(
        self, leg: Leg, prefilled: Prefilled, attempts: Iterator[int], failed: set[str]
    ) -> Booking:
        """Book a decode engine, if possible none that has failed; `hold` it next.

        Raises
        ------
        ProxyError
            The daemon says that all workers are full, or that there is none.
        """
        start = time.perf_counter()
        said = span_attributes.request(self.model(leg), leg.request_id)
        with self._traces.span("route", said) as span:
            booking = await self._book(leg, prefilled, attempts, failed, span)
        self._metrics.route_seconds.observe(time.perf_counter() - start)
        return booking

    async def follow(
        self, leg: Leg, move: Move, prefilled: Prefilled, attempt: int, failed: set[str]
    ) -> Booking | None:
        """Book where a move leads, which ends the booking before; None: that one lives on."""
        model, target = self.model(leg), move.target
        engine = self._fleet.decoder_at(model, target.url, target.dp_rank)
        unfit = failed | self.avoided(prefilled)
        if engine is None or self._client is None or unfit & {engine.worker_id, target.worker_id}:
            return None
        call: RouteFields = {
            **_said_of(leg),
            "attempt": attempt,
            "pinned_worker": target.worker_id,
            "prefill_worker": prefilled.worker_id,
            "prompt_tokens": leg.written.tokens if leg.written else 0,
        }
        with self._traces.span("route", span_attributes.request(model, leg.request_id)) as span:
            try:
                placement = await self._client.route(
                    model, leg.request_id, timeout=self._settings.route_timeout, **call
                )
            except EldrError as error:
                logger.info("%s stays where it is: %s", leg.request_id, error)
                return None
            if span.is_recording:
                span.say({"eldr.attempt": attempt, **span_attributes.placement(placement)})
        if placement.is_fallback:
            return None
        self._metrics.placements.labels(placement.reason.value).inc()
        return Booking.of(placement, engine, model, leg.request_id, attempt)

    @contextmanager
    def hold(self, booking: Booking) -> Iterator[None]:
        """Keep a booking during the block, and learn how its engine did."""
        try:
            with self._bookings.hold(booking):
                yield
            self.cooldown.succeeded(booking.worker_ids)
            if booking.kv_from:
                self._links.succeeded(booking.kv_from, booking.worker_ids)
        except EngineFailed as failure:
            self._blame(failure, booking)
            raise

    def avoided(self, prefilled: Prefilled) -> set[str]:
        """The decode engines to avoid now, given where the KV is."""
        avoided = self.cooldown.worker_ids
        if prefilled.has_kv and prefilled.engine:
            avoided |= self._links.decoders_to_avoid(prefilled.engine.worker_id)
        return avoided

    def forget(self, leg: Leg, attempt: int = 0) -> None:
        """End a booking that a prefill engine may have made for a leg, unknown to the proxy."""
        booking = Booking(
            engine=Engine("", ""), model=self.model(leg), request_id=leg.request_id, attempt=attempt
        )
        booking.outcome = ReleaseOutcome.CANCELLED
        self._bookings.release(booking)

    async def _book(
        self,
        leg: Leg,
        prefilled: Prefilled,
        attempts: Iterator[int],
        failed: set[str],
        span: Span,
    ) -> Booking:
        model = self.model(leg)
        attempt, placement = await self._ask(leg, prefilled, attempts, failed)
        if placement is not None:
            engine = self._fleet.decoder_at(model, placement.url, placement.dp_rank)
            at = engine or Engine(placement.worker_id, placement.url)
            booking = Booking.of(placement, at, model, leg.request_id, attempt)
            if engine is not None:
                self._metrics.placements.labels(placement.reason.value).inc()
                if span.is_recording:
                    span.say({"eldr.attempt": attempt, **span_attributes.placement(placement)})
                return booking
            logger.warning("%s is not a worker that this proxy knows", placement.url)
            self._bookings.release(booking)
        if prefilled.answer.handoff:
            self.forget(leg)
        engine = self._next(leg, prefilled, failed)
        self._metrics.placements.labels(FALLBACK).inc()
        span.say({"eldr.worker_id": engine.worker_id, "eldr.reason": FALLBACK})
        return Booking(engine=engine, model=model, request_id=leg.request_id, attempt=attempt)

    def _next(self, leg: Leg, prefilled: Prefilled, failed: set[str]) -> Engine:
        model = self.model(leg)
        engines = self._fleet.decode(model, prefilled.group)
        engines = [e for e in engines if e.worker_id not in failed] or engines
        if not engines:
            raise no_worker(f"no decode worker of {model!a} is known")
        avoided = self.avoided(prefilled)
        engines = [e for e in engines if e.worker_id not in avoided] or engines
        return engines[next(self._turn) % len(engines)]

    def _blame(self, failure: EngineFailed, booking: Booking) -> None:
        if isinstance(failure, EngineBusy):
            return
        if isinstance(failure, EngineErred) and booking.kv_from:
            self._links.failed(booking.kv_from, booking.worker_ids)
        else:
            self.cooldown.failed(booking.worker_ids)

    async def _ask(
        self, leg: Leg, prefilled: Prefilled, attempts: Iterator[int], failed: set[str]
    ) -> tuple[int, Placement | None]:
        """The daemon's placement; None if it gives none and the leg is served anyway."""
        attempt, answer = next(attempts), prefilled.answer
        if self._client is None:
            return attempt, None
        avoided = self.avoided(prefilled)
        handoff = answer.handoff or Handoff()
        placed = handoff.placement
        if attempt == 0 and placed is not None and placed.worker_id not in avoided:
            return attempt, placed
        if attempt == 0 and handoff.is_placed:
            self.forget(leg)
            attempt = next(attempts)
        counts, excluded = handoff.counts, failed | avoided
        waits = answer.handoff is not None and counts is None
        wait = min(self._settings.signature_wait, self._settings.route_timeout) if waits else 0
        refused = 0
        call: RouteFields = {
            **_said_of(leg),
            "wait_for_signature": wait,
            "prefill_worker": prefilled.worker_id,
            "prompt_tokens": answer.usage.prompt,
        }
        while True:
            call |= {
                "attempt": attempt,
                "exclude_workers": sorted(excluded),
                "max_wait": 0 if excluded > failed else self._settings.max_wait,
            }
            try:
                placement = await self._client.route(
                    self.model(leg),
                    leg.request_id,
                    counts,
                    timeout=self._settings.route_timeout
                    - wait,  # to which the client adds the waits
                    **call,
                )
            except errors.ResourceExhaustedError as error:
                if excluded > failed:  # one that cools down may be alive, and have room
                    excluded = failed
                    continue
                if leg.goes_on:  # its caller has the beginning: better unbooked than broken off
                    return attempt, None
                retry_after = error.retry_after or 1
                raise ProxyError(
                    429, str(error), "rate_limit_error", retry_after=retry_after
                ) from error
            except errors.UnavailableError:
                if not excluded:  # it may have just restarted, and know no engine yet
                    return attempt, None
                # Better a failed one than none, and rather one that failed other requests.
                excluded = failed if excluded > failed else set()
            except (errors.InvalidArgumentError, errors.FailedPreconditionError) as error:
                # Counts that do not fit the model, or attempts that have ended: of a shim that did
                # not say so, or of a scheduler that sends a prefilled request anew.
                logger.warning("%s: the daemon refused it: %s", leg.request_id, error)
                refused += 1
                does_not_fit = isinstance(error, errors.InvalidArgumentError)
                if refused > (1 if does_not_fit else MAX_REFUSALS):
                    self.forget(leg, attempt)
                    return attempt, None
                counts, attempt = None if does_not_fit else counts, next(attempts)
            except RouterUnavailableError:
                return attempt, None
            except EldrError as error:  # an invalid token, say
                logger.warning("%s: the daemon refused it: %s", leg.request_id, error)
                return attempt, None
            else:
                return attempt, None if placement.is_fallback else placement


def _said_of(leg: Leg) -> RouteFields:
    """The fields of every call about a leg."""
    return {
        "num_sequences": leg.sequences,
        "expected_output_tokens": leg.output_limit,
        "session": leg.kin.session,
        "labels": leg.kin.labels,
        "prefix_hashes": of_leg(leg),
        "prefix_block_tokens": BLOCK_TOKENS,
        "movable": leg.written is not None,
    }
