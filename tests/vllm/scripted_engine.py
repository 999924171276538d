"""Small engines that speak as vLLM's front end does, and remember what they were told.

Each answer's tokens follow from the prompt alone, so prefill and decode agree. A ledger shared by
the engines stands for the KV blocks: a prefill pins, a decode that fetches frees, and so does a
decode engine that refuses a request with remote KV.
"""

import asyncio
import json
import socket
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from aiohttp import ClientSession, web
from eldr_vllm.proxy.app import Proxy
from eldr_vllm.proxy.settings import Settings

MODEL = "tiny"


def text_of(prompt: Any, length: int) -> list[str]:
    seed = sum(str(prompt).encode(errors="replace"))
    return [f" w{(seed + i) % 97}" for i in range(length)]


@dataclass
class Engine:
    pinned: set[str]
    _: KW_ONLY
    # What goes wrong: a status, "error-event", "drop" (no answer), "break" (after two tokens).
    fault: int | str | None = None
    faults_left: int = 1_000_000
    pause: float = 0.0  # before each token
    gate: asyncio.Event | None = None  # nothing is answered before it is set
    eldr: dict | None = None  # what the shim adds to a prefill's answer
    model: str = MODEL
    details: dict = field(default_factory=dict)  # of the usage
    # URLs of the prefill engines whose KV it cannot fetch, as after a restart of either.
    unreachable: set[str] = field(default_factory=set)
    # It cannot read one token as a tool call, as vLLM could not for some time.
    trips_on_tools: bool = False
    bodies: list[dict] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    metrics_page: bytes | None = None  # instead of vLLM's
    running: int = 0
    aborted: int = 0
    url: str = ""

    @property
    def decodes(self) -> list[dict]:
        return [body for body in self.bodies if body.get("model") == self.model]

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.post("/v1/completions", self.generate),
                web.post("/v1/chat/completions", self.generate),
                web.post("/v1/responses", self.generate),
                web.post("/v1/messages", self.generate),
                web.post("/tokenize", self.tokenize),
                web.get("/v1/models", self.models),
                web.get("/metrics", self.metrics),
                web.get("/health", self.health),
            ]
        )
        return app

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response(
            {"object": "list", "data": [{"id": self.model, "object": "model"}]}
        )

    async def health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def tokenize(self, request: web.Request) -> web.Response:
        return web.json_response({"tokens": list((await request.json())["prompt"].encode())})

    async def metrics(self, _: web.Request) -> web.Response:
        name = "vllm:request_time_per_output_token_seconds"
        if self.metrics_page is not None:
            return web.Response(body=self.metrics_page, content_type="text/plain")
        return web.Response(
            text=f"# TYPE {name} histogram\n"
            f'{name}_bucket{{engine="0",le="0.1"}} 3\n'
            f'{name}_bucket{{engine="0",le="+Inf"}} 4\n'
            f'{name}_count{{engine="0"}} 4\n'
            f'{name}_sum{{engine="0"}} 0.5\n'
        )

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers)
        self.running += 1
        try:
            return await self._generate(request, body)
        except (asyncio.CancelledError, ConnectionResetError):
            self.aborted += 1
            raise
        finally:
            self.running -= 1

    async def _generate(self, request: web.Request, body: dict) -> web.StreamResponse:
        kv = body.get("kv_transfer_params") or {}
        if body["model"] != self.model or body.get("n") == 0:
            self._fetch(kv)
            return web.json_response({"error": {"message": "no", "code": 404}}, status=404)
        if self.gate is not None:
            await self.gate.wait()
        fault = self.fault if self.faults_left > 0 else None
        self.faults_left -= fault is not None
        if isinstance(fault, int):
            return web.json_response({"error": {"message": "broken", "code": fault}}, status=fault)
        forced = body.get("tool_choice") == "required" or isinstance(body.get("tool_choice"), dict)
        is_prefill = kv.get("do_remote_decode")
        if kv.get("remote_url") in self.unreachable or (
            is_prefill and forced and self.trips_on_tools
        ):
            fault = "error-event" if body.get("stream") else 500
            if fault == 500:
                return web.json_response({"error": {"message": "KV", "code": 500}}, status=500)
        if fault == "drop":
            request.transport.abort()
            return web.Response()
        prompt = body.get("prompt", body.get("messages", body.get("input")))
        limits = ("max_completion_tokens", "max_tokens", "max_output_tokens")
        limit = next((body[name] for name in limits if body.get(name)), 16)
        tokens = text_of(prompt, limit)
        if kv.get("do_remote_decode"):
            await asyncio.sleep(self.pause)
            return web.json_response(self._answer(request, body, tokens, self._pin(request)))
        if kv.get("do_remote_prefill") and fault != "error-event":
            self._fetch(kv)
        if body.get("stream"):
            return await self._stream(request, body, tokens, fault)
        for _ in tokens:
            await asyncio.sleep(self.pause)
        return web.json_response(self._answer(request, body, tokens, None))

    def _pin(self, request: web.Request) -> dict:
        name = f"{request.headers['X-Request-Id']}-{len(self.bodies)}"
        self.pinned.add(name)
        kv = {"do_remote_prefill": True, "do_remote_decode": False, "remote_request_id": name}
        kv["remote_url"] = self.url
        return {**kv, "eldr": self.eldr} if self.eldr is not None else kv

    def _fetch(self, kv: dict) -> None:
        self.pinned.discard(kv.get("remote_request_id", ""))

    def _answer(self, request: web.Request, body: dict, tokens: list[str], kv: Any) -> dict:
        text = "".join(tokens)
        if request.path in _NEWER:
            return {**_NEWER[request.path](text, len(tokens)), "kv_transfer_params": kv}
        chat = request.path.endswith("chat/completions")
        content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        return {
            "id": f"cmpl-{request.headers['X-Request-Id']}",
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": MODEL,
            "choices": [{"index": 0, **content, "finish_reason": "length"}],
            "usage": self._usage(len(tokens)),
            "kv_transfer_params": kv,
        }

    def _usage(self, tokens: int) -> dict:
        usage = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}
        return {**usage, **self.details}

    async def _stream(
        self, request: web.Request, body: dict, tokens: list[str], fault: Any
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if request.path in _NEWER:
            return await self._stream_newer(request, response, tokens, fault)
        if fault == "error-event":
            await response.write(b'data: {"error":{"message":"KV load failed","code":500}}\n\n')
            await response.write(b"data: [DONE]\n\n")
            return response
        chat = request.path.endswith("chat/completions")
        shared = {"id": f"cmpl-{request.headers['X-Request-Id']}", "created": 1, "model": MODEL}
        if chat:
            delta = {"role": "assistant", "content": ""}
            await self._event(response, shared, {"delta": delta, "finish_reason": None})
        for number, token in enumerate(tokens):
            await asyncio.sleep(self.pause)
            if fault == "break" and number == 2:
                request.transport.abort()
                return response
            last = number == len(tokens) - 1
            content = {"delta": {"content": token}} if chat else {"text": token}
            for index in range(body.get("n") or 1):
                choice = {"index": index, **content, "finish_reason": "length" if last else None}
                await self._event(response, shared, choice)
        if (body.get("stream_options") or {}).get("include_usage"):
            closing = {**shared, "choices": [], "usage": self._usage(len(tokens))}
            await response.write(b"data: " + _dump(closing) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _stream_newer(
        self, request: web.Request, response: web.StreamResponse, tokens: list[str], fault: Any
    ) -> web.StreamResponse:
        """As /v1/responses and /v1/messages stream: named events, and no [DONE]."""
        whole = _NEWER[request.path]("".join(tokens), len(tokens))
        if request.path == "/v1/messages":
            first, delta, last = "message_start", "content_block_delta", "message_stop"
            ends = [{"type": "message_delta", "usage": whole["usage"]}, {"type": last}]
        else:
            first, delta, last = (
                "response.created",
                "response.output_text.delta",
                "response.completed",
            )
            ends = [{"type": last, "response": {**whole, "kv_transfer_params": {"a": 1}}}]
        pieces = [{"type": delta, "delta": {"text": token}} for token in tokens]
        for number, event in enumerate([{"type": first}, *pieces, *ends]):
            if fault == "error-event" and number == 1:
                event = {"type": "error", "error": {"type": "internal_error", "message": "KV"}}
            data = f"event: {event['type']}\ndata: ".encode() + _dump(event) + b"\n\n"
            await response.write(data)
            if event["type"] == "error":
                break
            if fault == "break" and number == 2:
                request.transport.abort()
                break
        return response

    @staticmethod
    async def _event(response: web.StreamResponse, shared: dict, choice: dict) -> None:
        payload = {**shared, "choices": [{"index": 0, **choice}]}
        await response.write(b"data: " + _dump(payload) + b"\n\n")


def _response(text: str, tokens: int) -> dict:
    content = [{"type": "output_text", "text": text}]
    usage = {"input_tokens": 7, "output_tokens": tokens, "total_tokens": 7 + tokens}
    output = [{"type": "message", "role": "assistant", "content": content}]
    return {"id": "resp_1", "object": "response", "output": output, "usage": usage}


def _message(text: str, tokens: int) -> dict:
    content = [{"type": "text", "text": text}]
    usage = {"input_tokens": 7, "output_tokens": tokens}
    return {"id": "msg_1", "type": "message", "content": content, "usage": usage}


_NEWER = {"/v1/responses": _response, "/v1/messages": _message}


def _dump(payload: dict) -> bytes:
    return json.dumps(payload, separators=(",", ":")).encode()


@dataclass(kw_only=True)
class Rig:
    """A proxy before its engines; `stop` takes an engine off its port."""

    prefill: list[Engine]
    decode: list[Engine]
    pinned: set[str]
    url: str = ""
    session: ClientSession = None
    runners: dict[str, web.AppRunner] = field(default_factory=dict)

    async def post(self, path: str = "/v1/completions", **body: Any) -> Any:
        headers = body.pop("headers", {})
        body = {"model": MODEL, "prompt": "Hello", "max_tokens": 5, **body}
        if "messages" in body or "input" in body:
            del body["prompt"]
        async with self.session.post(self.url + path, json=body, headers=headers) as answer:
            text = await answer.text()
            return answer, text if body.get("stream") else json.loads(text)

    async def metric(self, name: str) -> float:
        async with self.session.get(self.url + "/metrics") as answer:
            for line in (await answer.text()).splitlines():
                if line.startswith(name + " "):
                    return float(line.rsplit(" ", 1)[1])
        return 0.0

    async def stop(self, engine: Engine) -> None:
        await self.runners.pop(engine.url).cleanup()


@asynccontextmanager
async def running_rig(
    prefills: int = 1,
    decodes: int = 2,
    *,
    static: bool = True,
    kind: type[Engine] = Engine,
    **settings: Any,
):
    """Engines and a proxy on free ports; with `static` the proxy is told where they are."""
    pinned: set[str] = set()
    rig = Rig(
        prefill=[kind(pinned) for _ in range(prefills)],
        decode=[kind(pinned) for _ in range(decodes)],
        pinned=pinned,
    )
    async with AsyncExitStack() as stack:
        for engine in (*rig.prefill, *rig.decode):
            runner, engine.url = await serve(engine.app())
            rig.runners[engine.url] = runner
        stack.push_async_callback(_stop_all, rig)
        if static:
            settings.setdefault("prefill", tuple(e.url for e in rig.prefill))
            settings.setdefault("decode", tuple(e.url for e in rig.decode))
        settings.setdefault("route_timeout", 1.0)  # the daemon shares two busy cores with us
        runner, rig.url = await serve(Proxy(Settings(**settings)).app())
        stack.push_async_callback(runner.cleanup)
        rig.session = await stack.enter_async_context(ClientSession())
        yield rig


async def serve(app: web.Application) -> tuple[web.AppRunner, str]:
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    return runner, f"http://127.0.0.1:{listener.getsockname()[1]}"


async def _stop_all(rig: Rig) -> None:
    for runner in rig.runners.values():
        await runner.cleanup()


async def eventually(holds, seconds: float = 30.0) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it does not come about"
        await asyncio.sleep(0.01)
