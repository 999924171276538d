"""The HTTP front: OpenAI's endpoints, and endpoints for operators."""

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from aiohttp import web
from eldr_client.aio import RouterClient
from eldr_client.channel import Endpoint
from eldr_client.traces import Span, Traces
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from eldr_vllm.proxy import pages, spans
from eldr_vllm.proxy.affinity import Affinity
from eldr_vllm.proxy.answer import Stream, Whole
from eldr_vllm.proxy.bookings import Bookings
from eldr_vllm.proxy.cooldown import CoolDown
from eldr_vllm.proxy.decoding import Send
from eldr_vllm.proxy.endpoints import ENDPOINTS
from eldr_vllm.proxy.engine_metrics import engine_metrics
from eldr_vllm.proxy.engines import Engines
from eldr_vllm.proxy.errors import ProxyError, bad_request, fault, in_words
from eldr_vllm.proxy.expectations import add_routes
from eldr_vllm.proxy.first_token import may_go_first
from eldr_vllm.proxy.fleet import Fleet
from eldr_vllm.proxy.headers import REQUEST_NAME, forwarded, request_name
from eldr_vllm.proxy.kin import kin_of
from eldr_vllm.proxy.legs import Leg, split
from eldr_vllm.proxy.metrics import Metrics
from eldr_vllm.proxy.moving import Moves
from eldr_vllm.proxy.objects import read_object
from eldr_vllm.proxy.ring import Ring
from eldr_vllm.proxy.routing import Routing
from eldr_vllm.proxy.said import handed_over
from eldr_vllm.proxy.serving import Serving
from eldr_vllm.proxy.settings import Settings

HELLO_SECONDS = 1.0


class Proxy:
    """One proxy: its workers, its connections, its handlers."""

    def __init__(self, settings: Settings, traces: Traces | None = None) -> None:
        self._settings = settings
        self._traces = traces or Traces()
        self._metrics = Metrics()
        self._cooldowns = CoolDown(), CoolDown()  # of prefill and of decode engines
        self._fleet = Fleet(settings.prefill, settings.decode, self._reborn)

    def app(self) -> web.Application:
        """The application. Without `handler_cancellation` it would not notice clients leaving."""
        app = web.Application(client_max_size=self._settings.max_body_bytes, middlewares=[in_words])
        app.cleanup_ctx.append(self._run)
        app.on_response_prepare.append(_give_name_back)
        shown = {
            "/v1/models": self._models,
            "/health": self._health,
            "/metrics": self._show_metrics,
        }
        add_routes(
            app,
            [
                *(("POST", path, self._generate) for path in ENDPOINTS),
                *(("POST", path, self._pass) for path in pages.PASSED),
                *((method, path, shown[path]) for path in shown for method in ("GET", "HEAD")),
            ],
        )
        return app

    async def _run(self, _: web.Application) -> AsyncIterator[None]:
        settings = self._settings
        client = None
        chores = []
        if settings.router is not None:
            context = self._traces.context if self._traces.is_on else None
            client = RouterClient(settings.router, trace_context=context, **settings.credentials)
        self._engines = Engines(
            settings.connect_timeout,
            settings.read_timeout,
            allow_link_local=settings.allow_link_local,
            credentials_to_fleet=settings.credentials_to_fleet,
            traces=self._traces,
        )
        bookings = Bookings(client)
        moves = Moves(client, self._fleet) if settings.moves and client is not None else None
        self._routing = Routing(
            settings, self._fleet, self._metrics, client, bookings, *self._cooldowns, self._traces
        )
        self._serving = Serving(
            settings=settings,
            fleet=self._fleet,
            affinity=Affinity(settings.prefix_length),
            ring=Ring(),
            prefill_cooldown=self._cooldowns[0],
            engines=self._engines,
            routing=self._routing,
            metrics=self._metrics,
            traces=self._traces,
            moves=moves,
        )
        if settings.router is not None:
            chores.append(asyncio.create_task(bookings.renew()))
            if moves is not None or not self._fleet.is_static:
                endpoint = Endpoint(settings.router, **settings.credentials)
                chores.append(asyncio.create_task(self._fleet.watch(endpoint)))
            # Connect before the first request has to wait for it.
            if await self._routing.is_reachable(HELLO_SECONDS) and moves is not None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._fleet.has_told.wait(), HELLO_SECONDS)
        yield
        for chore in chores:
            chore.cancel()
        for chore in chores:
            with suppress(asyncio.CancelledError):
                await chore
        if moves is not None:
            await moves.close()
        await bookings.close()
        await self._engines.close()
        if client is not None:
            await client.close()
        await asyncio.to_thread(self._traces.close)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        if not self._traces.is_on:
            return await self._measured(request, Span())
        name, said = f"POST {request.path}", spans.of_http(request)
        within = spans.context(request)
        with self._traces.span(name, said, kind="server", within=within) as span:
            return await self._measured(request, span)

    async def _measured(self, request: web.Request, span: Span) -> web.StreamResponse:
        status = 499
        self._metrics.in_flight.inc()
        try:
            response = await self._answer(request, span)
            status = response.status
        except (ProxyError, web.HTTPException) as error:
            status = error.status
            raise
        except Exception:  # counted as a 500, and raised: the error middleware logs and answers it
            status = 500
            raise
        finally:
            self._metrics.in_flight.dec()
            self._metrics.requests.labels(request.path, str(status)).inc()
            span.say({"http.response.status_code": status})
            if status >= 400:
                span.failed(str(status), by_caller=status < 500)
        return response

    async def _answer(self, request: web.Request, span: Span) -> web.StreamResponse:
        body = _object(await _read(request))
        headers, name = self._forwarded(request), REQUEST_NAME.get()
        handed = None
        if self._settings.accept_prefilled:
            handed = handed_over(body.get("kv_transfer_params"))
        known = handed.handoff.request_id if handed and handed.handoff else ""
        request_id = known or uuid.uuid4().hex
        legs = split(request_id, request.path, body, headers, name, handed)
        kin = kin_of(request.headers, body, self._settings.tenant_header)
        for leg in legs:
            leg.kin = kin
        if span.is_recording:
            span.say(spans.of_request(legs[0], self._routing.model(legs[0]), request_id))
        if not legs[0].is_stream:
            whole = Whole()
            await self._serve(legs, whole.send)
            return whole.finish()
        stream = Stream(request, legs, self._metrics, span)
        try:
            await self._serve(legs, stream.send)
            return await stream.finish()
        except ProxyError as error:
            if not stream.has_begun:
                raise
            return await stream.fail(error)

    async def _serve(self, legs: list[Leg], send: Send) -> None:
        early = self._settings.first_token_from_prefill and len(legs) == 1 and may_go_first(legs[0])
        if len(legs) == 1:
            await self._run_leg(legs[0], send, may_send_first=early)
            return
        try:
            async with asyncio.TaskGroup() as group:
                for leg in legs:
                    group.create_task(self._run_leg(leg, send))
        except* ProxyError as errors:
            first = errors.exceptions[0]
        else:
            return
        raise first

    async def _run_leg(self, leg: Leg, send: Send, may_send_first: bool = False) -> None:
        try:
            await self._serving.run(leg, send, may_send_first=may_send_first)
        except ProxyError:
            raise
        except Exception as error:
            raise fault() from error

    def _reborn(self, worker_id: str) -> None:
        for cooldown in self._cooldowns:
            cooldown.succeeded([worker_id])

    def _forwarded(self, request: web.Request) -> dict[str, str]:
        headers = forwarded(request.headers, self._settings.forward_headers)
        return spans.without_context(headers) if self._traces.is_on else headers

    async def _models(self, request: web.Request) -> web.Response:
        """List the models of all engines; one that is down does not hide the others'."""
        avoided = set(itertools.chain.from_iterable(c.worker_ids for c in self._cooldowns))
        engines = sorted(self._fleet.engines, key=lambda engine: engine.worker_id in avoided)
        found = await pages.models(self._engines, engines, self._forwarded(request))
        return web.json_response({"object": "list", "data": found})

    async def _pass(self, request: web.Request) -> web.Response:
        """Pass on what any engine of the model answers at once; nothing is booked."""
        data = await _read(request)
        model = _object(data).get("model")
        model = self._settings.model or (model if isinstance(model, str) else "")
        engines = self._fleet.prefill(model) + self._fleet.decode(model)
        headers = self._forwarded(request)
        return web.Response(
            body=await pages.first(self._engines, engines, request.path, headers, data),
            content_type="application/json",
        )

    async def _health(self, _: web.Request) -> web.Response:
        """The proxy is healthy if it knows the engines it needs, even without the daemon."""
        prefill = sum(engine.prefill for engine in self._fleet.engines)
        decode = len(self._fleet.engines) - prefill
        router = "none"
        if self._settings.router is not None:
            router = "up" if await self._routing.is_reachable() else "down"
        alone = self._settings.accept_prefilled or self._settings.without_prefill_workers
        healthy = decode > 0 and (prefill > 0 or alone)
        return web.json_response(
            {
                "status": "ok" if healthy else "no workers",
                "workers": {"prefill": prefill, "decode": decode},
                "router": router,
            },
            status=200 if healthy else 503,
        )

    async def _show_metrics(self, _: web.Request) -> web.Response:
        own = generate_latest(self._metrics.registry)
        theirs = await engine_metrics(self._engines, self._fleet.engines)
        return web.Response(body=own + theirs, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _read(request: web.Request) -> bytes:
    try:
        return await request.read()
    except web.RequestPayloadError as error:  # wrongly encoded, or cut off
        raise bad_request("the body is not readable") from error


def _object(data: bytes) -> dict[str, Any]:
    try:
        return read_object(data)
    except ValueError as error:
        raise bad_request(f"the body: {error}") from error


async def _give_name_back(request: web.Request, response: web.StreamResponse) -> None:
    name = REQUEST_NAME.get(None)  # None: aiohttp refused it before it reached us
    response.headers["X-Request-Id"] = name or request_name(request.headers)
