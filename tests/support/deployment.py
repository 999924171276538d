"""What `eldr doctor` examines: engines that answer, workers that report, requests of two kinds."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

from eldr.v1 import fleet_pb2
from wire import counts, drawn

OURS = version("eldr-service")
CAPTURING = fleet_pb2.CaptureStatus(
    state="CAPTURE_STATE_CAPTURING", known_tokens=90, software=f"eldr-vllm {OURS}"
)
PATIENT = "--report-limit", "600", "--suspect-after", "600"
"""Flags with which workers that report once stay healthy, however slow the machine is."""
BAD = "warning", "fault"


def bad(found):
    """The names of checks that found something."""
    return {name for (name, _), each in found.items() if each["outcome"] in BAD}


@contextmanager
def engine(status=200):
    """The URL of an engine that only answers health checks."""

    class Engine(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def report(client, worker_id, incarnation, number=1, **fields):
    """Send a worker's report, which must be accepted."""
    said = fleet_pb2.ReportLoadRequest(
        model="m", worker_id=worker_id, incarnation=incarnation, report_number=number, **fields
    )
    assert client.fleet.ReportLoad(said).accepted


def worker(client, worker_id, url, capture=CAPTURING, **fields):
    """Register a worker that reports once; returns its incarnation."""
    incarnation = client.register("m", worker_id, url=url, **fields)
    report(client, worker_id, incarnation, capture=capture)
    return incarnation


def serve(client, number, *, signatures=True, released=True, kinds=(0, 1), **fields):
    """Place that many requests, of these kinds in turn."""
    for i in range(number):
        known = {"counts": counts(drawn(kinds[i % len(kinds)], i))} if signatures else {}
        client.route("m", f"r{i}", **known, **fields)
        if released:
            client.release("m", f"r{i}")
