"""`eldr-sglang-proxy`: prefill first, then a decode server by the experts that the prefill used.

SGLang's own routers send a request to a prefill and a decode server at once. They need not: a
decode server finds its prefill by the bootstrap host, port and room in the request, and a prefill
server with --optimistic-prefill-attempts begins before a decode server has asked.
"""

import argparse
import asyncio
import itertools
import json
import logging
import random
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout, web
from eldr_client import EldrError, HeldPlacement, aio, arguments
from eldr_client.errors import ResourceExhaustedError

PATHS = ("/generate", "/v1/completions", "/v1/chat/completions")
ATTEMPTS = 3  # decode servers to try if connections are refused
LONGEST_WAIT = 10.0  # seconds; the daemon's bound

Body = dict[str, Any]
_BEGUN = "eldr: the answer has begun"


@dataclass(frozen=True, slots=True)
class PrefillServer:
    """Where a prompt is sent, and where a decode server fetches its KV cache."""

    url: str
    bootstrap_port: int

    @classmethod
    def parse(cls, text: str) -> "PrefillServer":
        """From `URL,BOOTSTRAP_PORT`."""
        url, _, port = text.rpartition(",")
        if not urlsplit(url).hostname or not port.isdecimal():
            raise argparse.ArgumentTypeError(f"expected URL,BOOTSTRAP_PORT, found {text!r}")
        return cls(url.rstrip("/"), int(port))

    def meeting(self) -> Body:
        """The bootstrap fields by which the two servers find each other."""
        return {
            "bootstrap_host": urlsplit(self.url).hostname,
            "bootstrap_port": self.bootstrap_port,
            "bootstrap_room": random.randrange(1 << 63),
        }


class _RefusedError(Exception):
    """A server answered with an error, which is passed to the caller unchanged."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"status {status}")
        self.response = web.Response(status=status, body=body, content_type="application/json")


class Proxy:
    """Serves SGLang's own endpoint and OpenAI's.

    Parameters
    ----------
    router : eldr_client.aio.RouterClient
    model : str
        The decode servers' model at the daemon.
    prefills : sequence of PrefillServer
        Used in turn.
    wait : float
        Seconds after which a decode is placed by load alone if the prefill takes longer.
    """

    def __init__(
        self, router: aio.RouterClient, model: str, prefills: Sequence[PrefillServer], wait: float
    ) -> None:
        self._router, self._model, self._wait = router, model, wait
        self._turns = itertools.cycle(prefills)
        self._session: ClientSession

    def app(self) -> web.Application:
        """The application, for aiohttp to run."""
        app = web.Application(client_max_size=64 << 20)
        app.cleanup_ctx.append(self._connected)
        app.add_routes([web.post(path, self._serve) for path in PATHS])
        app.add_routes([web.get("/health", _well)])
        return app

    async def _connected(self, _: web.Application) -> AsyncIterator[None]:
        async with ClientSession(timeout=ClientTimeout(total=None)) as self._session:
            yield

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            body = _checked(await request.json())
        except ValueError as error:
            return _error(400, str(error))
        server = next(self._turns)
        body |= server.meeting()
        body.setdefault("rid", uuid.uuid4().hex)
        prefill = asyncio.create_task(self._prefill(server.url + request.path, request, body))
        decode = asyncio.create_task(self._decode(request, body))
        try:
            # A prefill is answered once its decode server has the KV cache, or with an error.
            await asyncio.wait((prefill, decode), return_when=asyncio.FIRST_COMPLETED)
            if not (decode.done() or _has_begun(request)) and prefill.exception():
                decode.cancel()
                await asyncio.wait((decode,))
                await prefill
            return await decode
        except _RefusedError as refused:
            return refused.response
        except ResourceExhaustedError as error:
            return _error(503, str(error))
        except (ClientError, EldrError) as error:
            if _has_begun(request):
                raise  # the caller sees a broken stream
            return _error(502, f"{type(error).__name__}: {error}")
        finally:
            prefill.cancel()
            decode.cancel()
            await asyncio.wait((prefill, decode))

    async def _prefill(self, url: str, request: web.Request, body: Body) -> None:
        whole = body | {"stream": False}
        whole.pop("stream_options", None)
        async with self._session.post(url, json=whole, headers=_passed(request)) as answer:
            if answer.status != 200:
                raise _RefusedError(answer.status, await answer.read())
            await answer.read()

    async def _decode(self, request: web.Request, body: Body) -> web.StreamResponse:
        tried: list[str] = []
        while True:
            placing = self._router.place(
                self._model,
                body["rid"],
                attempt=len(tried),
                exclude_workers=tried,
                wait_for_signature=0 if tried else self._wait,
            )
            try:
                async with placing as placement:
                    return await self._at(placement, request, body)
            except ClientConnectorError:
                tried = [*tried, placement.worker_id]
                if len(tried) == ATTEMPTS:
                    raise

    async def _at(
        self, placement: HeldPlacement, request: web.Request, body: Body
    ) -> web.StreamResponse:
        url = placement.url.rstrip("/") + request.path
        headers = _passed(request)
        async with self._session.post(url, json=body, headers=headers) as answer:
            placed = {"x-eldr-worker": placement.worker_id, "x-eldr-reason": placement.reason.value}
            if answer.status != 200:
                raise _RefusedError(answer.status, await answer.read())
            if not body.get("stream"):
                whole = await answer.read()
                placement.output_tokens = _output_tokens(json.loads(whole))
                return web.Response(body=whole, content_type="application/json", headers=placed)
            response = web.StreamResponse(headers=placed | {"Content-Type": answer.content_type})
            request[_BEGUN] = True
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response


def _checked(body: Any) -> Body:
    if not isinstance(body, dict):
        raise ValueError("expected a JSON object")
    for name in ("text", "prompt", "input_ids"):
        prompt = body.get(name)
        if isinstance(prompt, list) and any(isinstance(one, str | list) for one in prompt):
            raise ValueError(
                f"{name}: expected one prompt, found {len(prompt)}; send one request per prompt"
            )
    sampling = body.get("sampling_params") or {}
    if body.get("n", 1) != 1 or (isinstance(sampling, dict) and sampling.get("n", 1) != 1):
        raise ValueError("n: expected 1: each answer needs its own decode")
    return body


def _has_begun(request: web.Request) -> bool:
    return _BEGUN in request


def _passed(request: web.Request) -> dict[str, str]:
    return {k: v for k, v in request.headers.items() if k.lower() == "authorization"}


def _output_tokens(answer: Any) -> int:
    meta = answer.get("meta_info") or answer.get("usage") or {}
    return int(meta.get("completion_tokens") or 0)


def _error(status: int, why: str) -> web.Response:
    return web.json_response({"error": {"message": why, "code": status}}, status=status)


async def _well(_: web.Request) -> web.Response:
    return web.Response()


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(prog="eldr-sglang-proxy", description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:8000", metavar="HOST:PORT")
    parser.add_argument("--router", default="127.0.0.1:50051", help="eldr-server's address")
    parser.add_argument("--model", required=True, help="the decode servers' model at eldr-server")
    parser.add_argument(
        "--prefill",
        type=PrefillServer.parse,
        action="append",
        required=True,
        metavar="URL,BOOTSTRAP_PORT",
        help="a prefill server; repeatable",
    )
    parser.add_argument(
        "--decode",
        action="append",
        default=[],
        metavar="URL",
        help="a decode server, used in turn while eldr-server does not answer; repeatable",
    )
    parser.add_argument(
        "--wait", type=float, default=LONGEST_WAIT, help="seconds to wait for a prefill's experts"
    )
    parser.add_argument(
        "--route-timeout", type=float, default=0.25, help="seconds to wait for eldr-server's answer"
    )
    parser.add_argument(
        "--token-file", type=arguments.token, help="file with the token for eldr-server"
    )
    authority = "PEM file of the authority of eldr-server's certificate"
    parser.add_argument("--tls-ca", type=arguments.contents, help=authority)
    given = parser.parse_args()
    if not 0 <= given.wait <= LONGEST_WAIT:
        parser.error(f"--wait: expected 0 to {LONGEST_WAIT} s, found {given.wait}")
    logging.basicConfig(level=logging.INFO)
    asyncio.run(_run(given))


async def _run(given: argparse.Namespace) -> None:
    async with aio.RouterClient(
        given.router,
        timeout=given.route_timeout,
        token=given.token_file,
        root_certificates=given.tls_ca,
        fallback_workers=[(url, url, 0) for url in given.decode],
    ) as router:
        runner = web.AppRunner(
            Proxy(router, given.model, given.prefill, given.wait).app(),
            handler_cancellation=True,  # a caller that goes ends its decode and its booking
        )
        await runner.setup()
        host, _, port = given.listen.rpartition(":")
        site = web.TCPSite(runner, host, int(port))
        await site.start()
        try:
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


if __name__ == "__main__":
    main()
