"""Engines as a gateway sees them: HTTP servers that record requests, and answer when told to."""

import json
import threading
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Engine:
    """One engine. `go` lets its answers end; `status` is their status.

    With `prefill`, it answers at once with the kv_transfer_params that `prefill` returns.
    """

    server: ThreadingHTTPServer
    bodies: list[dict] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    status: int = 200
    prefill: Callable[[dict, dict[str, str]], dict] | None = None

    @property
    def address(self) -> str:
        return "{}:{}".format(*self.server.server_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: Engine

    def do_GET(self) -> None:
        """An empty page of metrics: gateways ask often."""
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.engine.bodies.append(json.loads(self._body()))
        self.engine.headers.append({k.lower(): v for k, v in self.headers.items()})
        if self.engine.prefill:
            said = self.engine.prefill(self.engine.bodies[-1], self.engine.headers[-1])
            self._whole({"choices": [{"text": ""}], "kv_transfer_params": said})
            return
        self.send_response(self.engine.status)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self._chunk(b"data: {}\n\n")
            while not self.engine.go.wait(0.05):
                self._chunk(b": still here\n\n")
            self._chunk(b"data: [DONE]\n\n")
            self._chunk(b"")
        except OSError:
            self.close_connection = True  # the caller has gone

    def _body(self) -> bytes:
        if length := self.headers["Content-Length"]:
            return self.rfile.read(int(length))
        found = b""  # in chunks, as gateways forward what they stream
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _whole(self, answer: dict) -> None:
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _chunk(self, text: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Log nothing, to keep pytest's output short."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def _engine():
    server = _Server(("127.0.0.1", 0), _Handler)
    engine = Engine(server)
    server.RequestHandlerClass = type("Handler", (_Handler,), {"engine": engine})
    engine.go.set()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield engine
    finally:
        engine.go.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def engines(count: int):
    with ExitStack() as stack:
        yield [stack.enter_context(_engine()) for _ in range(count)]
