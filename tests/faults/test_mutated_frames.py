"""Spoilt HTTP/2 on the gRPC port and spoilt HTTP on the metrics port: the daemon goes on serving.

`ELDR_FAULTS_OPERATIONS` / 40 connections each, as in test_books.py.
"""

import json
import os
import random
import socket
import time
import uuid
from pathlib import Path

import grpc
import pytest
from daemon import running_daemon
from eldr.v1 import router_pb2
from frames import PREFACE, SETTINGS, call, frame, spoilt
from mutations import damaged
from wire import METHODS, Client, eventually, path_of

CONNECTIONS = int(os.environ.get("ELDR_FAULTS_OPERATIONS", "20000")) // 40
SEED = int(os.environ.get("ELDR_FAULTS_SEED", "1"))
LEFT_OPEN = 64
AGAIN = (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
SECONDS = 60.0
REQUESTS = [
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip, br\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nabcd",
]


OF_LIBRARIES = ("grpc._cython.cygrpc", "asyncio")  # they say what ended a server of grpc.aio
FAILED = "gRPC server failed, another takes over"


@pytest.fixture(scope="module")
def daemon():
    with running_daemon("--log-format", "json") as daemon, Client(daemon.grpc) as client:
        client.register("m", "w0", geometry=None)
        yield daemon
        lines = daemon.said.splitlines()
    said = [json.loads(line) for line in lines if line[:1] == "{"]  # gRPC's core logs too
    errors = [line for line in said if line["level"] == "error"]
    ours = [e for e in errors if e.get("logger") not in OF_LIBRARIES and e["event"] != FAILED]
    assert not ours, ours[0]


def connected(address: str) -> socket.socket:
    """A connection; a server that failed has its successor in a moment."""
    host, port = address.rsplit(":", 1)
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return socket.create_connection((host, int(port)), timeout=SECONDS)
        except ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def speak(address: str, sent: bytes, opened: list[socket.socket]) -> bytes:
    """Send the bytes on a connection of their own; what came at once is the answer."""
    connection = connected(address)
    opened.append(connection)
    if len(opened) > LEFT_OPEN:
        opened.pop(0).close()
    connection.setblocking(False)
    try:
        connection.sendall(sent)
        return connection.recv(65_536)
    except (BlockingIOError, ConnectionError):  # nothing yet; or it had enough of us
        return b""


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def settled(pid: int, most: int) -> bool:
    """The connections that were closed here are closed there."""
    deadline = time.monotonic() + SECONDS
    while descriptors(pid) > most:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def connect_often(daemon, address, make) -> bytes:
    before, opened, answers = descriptors(daemon.process.pid), [], b""
    began = time.monotonic()
    for _ in range(CONNECTIONS):
        answers += speak(address, make(), opened)[:64]
    for connection in opened:
        connection.setblocking(True)
        connection.shutdown(socket.SHUT_WR)
        connection.close()
    print(f"\n{CONNECTIONS} connections in {time.monotonic() - began:.0f} s")
    assert daemon.process.poll() is None
    assert settled(daemon.process.pid, before + 8)
    return answers


def assert_serves(daemon) -> None:
    """A call may still meet a server that has just failed, and is repeated then, as clients do."""
    name = uuid.uuid4().hex
    route = router_pb2.RouteRequest(model="m", request_id=name)
    with Client(daemon.grpc) as client:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                placed = client.router.Route(route, wait_for_ready=True, timeout=SECONDS).placement
            except grpc.RpcError as error:
                assert error.code() in AGAIN, error  # noqa: PT017
                assert time.monotonic() < deadline
                time.sleep(0.1)
            else:
                break
        assert placed.worker_id == "w0"
        assert client.release("m", name) == "RELEASED"


@pytest.mark.timeout(180 + CONNECTIONS // 20)
def test_spoilt_http2_on_the_grpc_port(daemon):
    chance = random.Random(SEED)
    request = router_pb2.RouteRequest(model="m", request_id="spoilt").SerializeToString()

    def make() -> bytes:
        calls = []
        for number in range(chance.choice((1, 1, 3))):
            calls += call(path_of(chance.choice(METHODS)), request, 2 * number + 1)
        sent = [frame(SETTINGS, 0, 0), *calls]
        return PREFACE + (spoilt(sent, chance) if chance.random() < 0.95 else b"".join(sent))

    connect_often(daemon, daemon.grpc, make)
    assert_serves(daemon)


@pytest.mark.timeout(180 + CONNECTIONS // 20)
def test_spoilt_http_on_the_metrics_port(daemon):
    chance = random.Random(SEED)
    answers = connect_often(
        daemon,
        daemon.http,
        lambda: damaged(chance.choice(REQUESTS), chance, chance.choice(REQUESTS)),
    )
    assert b"HTTP/1.1 5" not in answers
    assert b"HTTP/1.0 5" not in answers
    assert_serves(daemon)


def test_a_path_that_is_no_text_ends_no_call_and_no_port(daemon):
    """grpc.aio's server ends by it, whoever sends it."""
    endings = daemon.said.count(FAILED)
    with Client(daemon.grpc) as client:
        watch = client.watch("m")
        assert next(watch).synchronized
        with connected(daemon.grpc) as connection:
            connection.sendall(PREFACE + frame(SETTINGS, 0, 0) + b"".join(call("/\udce3", b"")))
            eventually(lambda: daemon.said.count(FAILED) > endings, SECONDS)
        assert_serves(daemon)
        client.register("m", "later", geometry=None)
        assert next(watch).worker.worker_id == "later"
        watch.cancel()
