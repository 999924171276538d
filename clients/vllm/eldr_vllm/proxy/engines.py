"""HTTP with the engines."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import aiohttp

from eldr_vllm.proxy import sse
from eldr_vllm.proxy.errors import ProxyError
from eldr_vllm.proxy.fleet import Engine
from eldr_vllm.proxy.legs import Leg

logger = logging.getLogger("eldr_proxy")

PAGE_TIMEOUT = aiohttp.ClientTimeout(total=2)  # for what takes an engine no time
# vLLM's front end closes a connection that was idle for 5 s; ours must be gone before.
KEEP_ALIVE = 3.0


class EngineFailed(Exception):  # noqa: N818 - a fact about an engine, not about this program
    """The engine did not do it; another one may."""


class Sent:
    """Whether a request has left for an engine."""

    def __init__(self) -> None:
        self.is_true = False

    def __bool__(self) -> bool:
        return self.is_true


class Engines:
    """One pool of connections to all engines."""

    def __init__(self, connect_timeout: float, read_timeout: float) -> None:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_sent)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=connect_timeout, sock_read=read_timeout
            ),
            trace_configs=[trace],
        )
        self._farewells: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Finish what is to be discarded, then disconnect."""
        if self._farewells:
            await asyncio.wait(self._farewells)
        await self._session.close()

    async def get(self, engine: Engine, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        """A small page of an engine."""
        try:
            async with self._session.get(
                engine.url + path,
                headers=headers,
                timeout=PAGE_TIMEOUT,
                trace_request_ctx=Sent(),
                allow_redirects=False,
            ) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineFailed(f"{engine.worker_id}: {_words(error)}") from error

    async def ask(
        self, engine: Engine, leg: Leg, body: dict[str, Any], sent: Sent
    ) -> dict[str, Any]:
        """A whole answer."""
        try:
            async with self._post(engine, leg, body, sent) as answer:
                await _check(engine, answer)
                payload = await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise EngineFailed(f"{engine.worker_id}: {_words(error)}") from error
        if not isinstance(payload, dict):
            raise EngineFailed(f"{engine.worker_id}: no JSON object came")
        return payload

    async def stream(
        self, engine: Engine, leg: Leg, body: dict[str, Any], sent: Sent
    ) -> AsyncGenerator[bytes, None]:
        """The events of an answer without the closing [DONE]; close it to abort the request."""
        try:
            async with self._post(engine, leg, body, sent) as answer:
                await _check(engine, answer)
                async for event in sse.events(answer.content.iter_any()):
                    if event == sse.DONE:
                        return
                    if sse.is_error(event):
                        raise EngineFailed(f"{engine.worker_id}: {event.decode().strip()}")
                    yield event
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineFailed(f"{engine.worker_id}: {_words(error)}") from error
        raise EngineFailed(f"{engine.worker_id}: the stream broke off")

    def discard(
        self,
        decoders: list[Engine],
        leg: Leg,
        kv_transfer_params: dict[str, Any],
        delay: float = 0.0,
    ) -> None:
        """Have the KV of a finished prefill freed that no decode is going to fetch, in `delay` s.

        Only a decode engine can tell a prefill engine so. vLLM does it for any request with remote
        KV that its front end refuses, which a model that nobody serves is sure to be.
        """
        task = asyncio.create_task(self._discard(decoders, leg, kv_transfer_params, delay))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)

    async def _discard(
        self, decoders: list[Engine], leg: Leg, kv_transfer_params: dict[str, Any], delay: float
    ) -> None:
        await asyncio.sleep(delay)
        refused = Leg(leg.request_id, "/v1/completions", {}, headers=leg.headers)
        body = {
            "model": "eldr-discards-kv",
            "prompt": [0],
            "max_tokens": 1,
            "kv_transfer_params": kv_transfer_params,
        }
        for engine in decoders:
            try:
                async with self._post(engine, refused, body, Sent(), PAGE_TIMEOUT) as answer:
                    await answer.read()
                    return
            except (aiohttp.ClientError, TimeoutError) as error:
                logger.info("%s does not discard: %s", engine.worker_id, _words(error))
        logger.warning("the KV of %s stays until its lease ends", leg.request_id)

    def _post(
        self,
        engine: Engine,
        leg: Leg,
        body: dict[str, Any],
        sent: Sent,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> Any:
        return self._session.post(
            engine.url + leg.path,
            data=json.dumps(body).encode(),
            headers={
                **leg.headers,
                **engine.headers,
                "Content-Type": "application/json",
                "X-Request-Id": leg.request_id,
            },
            timeout=timeout or self._session.timeout,
            trace_request_ctx=sent,
            allow_redirects=False,  # whoever redirects is not one of the known engines' places
        )


async def _note_sent(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.is_true = True


async def _check(engine: Engine, answer: aiohttp.ClientResponse) -> None:
    """The caller's fault goes back as the engine put it; anything else is the engine's."""
    if answer.status == 200:
        return
    body = await answer.read()
    if 400 <= answer.status < 500 and answer.status not in (408, 429):
        raise ProxyError(answer.status, f"refused by {engine.worker_id}", body=body)
    raise EngineFailed(f"{engine.worker_id}: HTTP {answer.status}: {body[:200]!r}")


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
