"""HTTP requests to the engines."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
from eldr_client.traces import Traces

from eldr_vllm.proxy import said, sse
from eldr_vllm.proxy.errors import EngineBusy, EngineErred, EngineFailed, ProxyError
from eldr_vllm.proxy.fleet import Engine
from eldr_vllm.proxy.headers import CREDENTIALS
from eldr_vllm.proxy.json_body import JsonBody
from eldr_vllm.proxy.legs import Leg
from eldr_vllm.proxy.reach import CheckedResolver, check_url

logger = logging.getLogger("eldr_proxy")

PAGE_TIMEOUT = aiohttp.ClientTimeout(total=2)  # for pages that take an engine no time
TEXT_SECONDS = 0.5  # for the text of tokens, while an answer waits
# vLLM's front end closes a connection after 5 s of idling; ours must close earlier.
KEEP_ALIVE = 3.0
MAX_ANSWER_BYTES = 256 << 20
MAX_PAGE_BYTES = 16 << 20
_BUSY = (408, 429)


class Sent:
    """Whether a request has left for an engine."""

    def __init__(self) -> None:
        self.is_true = False

    def __bool__(self) -> bool:
        return self.is_true


class Engines:
    """One connection pool to all engines."""

    def __init__(
        self,
        connect_timeout: float,
        read_timeout: float,
        *,
        allow_link_local: bool = False,
        credentials_to_fleet: bool = False,
        traces: Traces | None = None,
    ) -> None:
        self._allow_link_local = allow_link_local
        self._credentials_to_fleet = credentials_to_fleet
        self._traces = traces or Traces()
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_sent)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=KEEP_ALIVE,
                resolver=None if allow_link_local else CheckedResolver(),
            ),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=connect_timeout, sock_read=read_timeout
            ),
            trace_configs=[trace],
        )
        self._farewells: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Finish pending discards, then disconnect."""
        if self._farewells:
            await asyncio.wait(self._farewells)
        await self._session.close()

    async def page(
        self, engine: Engine, path: str, headers: dict[str, str], body: bytes | None = None
    ) -> bytes:
        """Fetch a small page of an engine, by POST if there is a body.

        Raises
        ------
        EngineFailed
            There is no page.
        ProxyError
            The engine refuses the request.
        """
        with _named(engine):
            async with self._session.request(
                "GET" if body is None else "POST",
                engine.url + path,
                headers={**self._forwarded(engine, headers), "Content-Type": "application/json"},
                data=body,
                timeout=PAGE_TIMEOUT,
                trace_request_ctx=Sent(),
                allow_redirects=False,
            ) as answer:
                await _check(engine, answer)
                return await _read(answer, MAX_PAGE_BYTES)

    async def text_of(self, engine: Engine, leg: Leg, tokens: list[int]) -> str | None:
        """The text that these tokens stand for; None where the engine does not say in time."""
        model = {"model": leg.model} if leg.model else {}
        body = json.dumps({**model, "tokens": tokens}).encode()
        try:
            async with asyncio.timeout(TEXT_SECONDS):
                page = await self.page(engine, "/detokenize", leg.headers, body)
            return said.text(page)
        except (EngineFailed, ProxyError, TimeoutError):
            return None

    async def ask(
        self,
        engine: Engine,
        leg: Leg,
        body: dict[str, Any],
        sent: Sent,
        choices: int | None = None,
    ) -> said.Answer:
        """Return a complete answer, with `choices` choices if given.

        Raises
        ------
        EngineFailed
            There is no answer.
        ProxyError
            The engine refuses the request.
        """
        with _named(engine):
            async with self._post(engine, leg, body, sent) as answer:
                await _check(engine, answer)
                data = await _read(answer, MAX_ANSWER_BYTES)
            return said.answer(data, leg.asked, choices)

    async def stream(
        self, engine: Engine, leg: Leg, body: dict[str, Any], sent: Sent
    ) -> AsyncGenerator[said.Event, None]:
        """The events of an answer without the closing [DONE]; close it to abort the request.

        Raises like `ask`; an answer is complete once its last event has come, whatever follows.
        """
        left = leg.sequences
        choices = None if leg.why_whole else 1
        try:
            with _named(engine):
                async with self._post(engine, leg, body, sent) as answer:
                    await _check(engine, answer)
                    if answer.content_type == "application/json":
                        said.answer(await _read(answer, MAX_PAGE_BYTES), leg.asked)
                        raise EngineFailed("expected a stream, found a whole answer")
                    async for raw in sse.events(answer.content.iter_any()):
                        event = said.event(raw, leg.asked, choices)
                        if event.is_done:
                            break
                        left -= event.ends
                        if event.raw:
                            yield event
                if left > 0:
                    raise EngineFailed("the stream ended before the answer did")
        except EngineErred:
            raise
        except EngineFailed as failure:
            if left > 0:
                raise
            logger.warning("after an answer's last event: %s", failure)

    def discard(
        self,
        decoders: list[Engine],
        leg: Leg,
        kv_transfer_params: dict[str, Any],
        delay: float = 0.0,
    ) -> None:
        """After `delay` s, free the KV of a finished prefill that no decode will fetch.

        Only a decode engine can tell a prefill engine to. vLLM's does so for any request with
        remote KV that its front end refuses, such as one for a model that no engine serves.
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
                with _named(engine):
                    async with self._post(engine, refused, body, Sent(), PAGE_TIMEOUT) as answer:
                        await _read(answer, MAX_PAGE_BYTES)
                        return
            except EngineFailed as failure:
                logger.info("the KV is not discarded: %s", failure)
        logger.warning("the KV of %s stays until its lease ends", leg.request_id)

    def _forwarded(self, engine: Engine, headers: dict[str, str]) -> dict[str, str]:
        """The caller's headers for an engine; credentials do not go to whatever registers."""
        if not self._allow_link_local:
            check_url(engine.url)
        if self._credentials_to_fleet or not engine.is_registered:
            return headers
        return {name: said for name, said in headers.items() if name.lower() not in CREDENTIALS}

    def _post(
        self,
        engine: Engine,
        leg: Leg,
        body: dict[str, Any],
        sent: Sent,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> Any:
        data = JsonBody(body, leg.encoded)
        return self._session.post(
            engine.url + leg.asked.path,
            data=data.pieces(),
            headers={
                **self._forwarded(engine, leg.headers),
                **self._traces.context(),
                **engine.headers,
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
                "X-Request-Id": leg.name,
            },
            timeout=timeout or self._session.timeout,
            trace_request_ctx=sent,
            allow_redirects=False,  # a redirect could lead anywhere
        )


@contextmanager
def _named(engine: Engine) -> Iterator[None]:
    """Turn any failure of a request to an engine into an EngineFailed that names it."""
    try:
        yield
    except EngineBusy:
        raise
    except EngineFailed as failure:
        raise type(failure)(f"{engine.worker_id}: {failure}") from failure
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        # ValueError: headers that aiohttp cannot parse.
        words = str(error) or type(error).__name__
        raise EngineFailed(f"{engine.worker_id}: {words}") from error


async def _note_sent(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.is_true = True


async def _check(engine: Engine, answer: aiohttp.ClientResponse) -> None:
    """The caller's fault is passed back as the engine put it; anything else is the engine's."""
    status = answer.status
    if status == 200:
        return
    body = await _read(answer, MAX_PAGE_BYTES)
    if not 400 <= status < 500:
        kind = EngineErred if status >= 500 else EngineFailed
        raise kind(f"HTTP {status}: {body[:200]!r}")
    refusal = said.refusal(engine.worker_id, status, body, answer.headers.get("Retry-After"))
    if status in _BUSY:
        raise EngineBusy(f"{engine.worker_id} is busy: HTTP {status}", refusal)
    raise refusal


async def _read(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    pieces, size = [], 0
    async for piece in answer.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise EngineFailed(f"an answer of more than {limit} bytes")
    return b"".join(pieces)
