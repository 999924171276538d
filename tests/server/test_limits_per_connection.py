"""What one connection may hold."""

import queue
import socket
import time
from contextlib import ExitStack

from certificates import issue
from daemon import running_daemon
from eldr.v1 import router_pb2
from wire import Client, eventually


class OpenStream:
    """A RouteStream with one message sent, that goes on until it is closed."""

    def __init__(self, client):
        self._messages = queue.Queue()
        self._messages.put(router_pb2.RouteStreamRequest(model="m", request_id="r"))
        self._answers = client.router.RouteStream(iter(self._messages.get, None))
        self.answered = []

    def take(self):
        self.answered.append(next(self._answers))

    def close(self):
        self._messages.put(None)


def test_further_streams_wait_until_one_ends():
    with running_daemon("--max-calls", "4") as daemon, Client(daemon.grpc) as client:
        held = [OpenStream(client) for _ in range(4)]
        for stream in held:
            stream.take()
        further = client.router.Route.future(router_pb2.RouteRequest(model="m", request_id="r"))
        time.sleep(0.5)
        assert not further.done()
        with Client(daemon.grpc) as another:  # a connection of its own is not held up
            assert another.workers() == {}
        held[0].close()
        eventually(further.done)
        assert "has no worker" in further.exception().details()
        for stream in held:
            stream.close()


def test_a_connection_that_says_nothing_is_closed(tmp_path):
    certificate, key = issue("server", issue("authority")).write(tmp_path, "server")
    tls = ("--tls-cert", str(certificate), "--tls-key", str(key))
    with running_daemon() as plain, running_daemon(*tls) as guarded, ExitStack() as opened:
        silent = []
        for daemon in (plain, guarded):
            host, _, port = daemon.grpc.rpartition(":")
            connection = socket.create_connection((host, int(port)), timeout=40)
            silent.append(opened.enter_context(connection))
        began = time.monotonic()
        for connection in silent:
            while connection.recv(1_024):  # in plain text the server's settings come first
                pass
        assert time.monotonic() - began < 40  # gRPC's own patience is 120 s
