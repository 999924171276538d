"""Clients that ping as often as their languages let them keep their connections."""

import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from daemon import running_daemon
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from languages import needs_go

# Go and Java allow one ping in ten seconds; the fourth is the first that gRPC's defaults punish.
SECONDS = float(os.environ.get("ELDR_FAULTS_PING_SECONDS", "45"))
BUILD_SECONDS = 240
PROGRAM = Path(__file__).parents[1] / "go_pings"
PINGS = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


@contextmanager
def strict_server():
    """A gRPC server as it is without settings, which punishes pings."""
    server = grpc.server(ThreadPoolExecutor(4))
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


class Python:
    """A channel that pings, with a stream on which nothing happens or without."""

    def __init__(self, address, streams):
        self._channel = grpc.insecure_channel(address, PINGS)
        self.changes = []
        self._ready = threading.Event()
        self._channel.subscribe(self._changed, try_to_connect=True)
        assert self._ready.wait(20)
        self._stream = None
        if streams:
            stub = health_pb2_grpc.HealthStub(self._channel)
            self._stream = stub.Watch(health_pb2.HealthCheckRequest())
            next(self._stream)

    def _changed(self, state):
        if state is grpc.ChannelConnectivity.READY and not self._ready.is_set():
            self._ready.set()
        elif self._ready.is_set():
            self.changes.append(state)

    def end(self):
        """What has happened to the connection and its stream."""
        died = [] if self._stream is None or self._stream.is_active() else [self._stream.details()]
        happened = [*self.changes, *died]
        self._channel.close()
        return happened


def pinged_from_go(program, addresses):
    """What became of an idle connection and a stream to each address."""
    running = [
        subprocess.Popen([program, address, str(SECONDS)], stdout=subprocess.PIPE, text=True)
        for address in addresses
    ]
    for process in running:
        said, _ = process.communicate(timeout=SECONDS + 30)
        assert process.returncode == 0
        yield sorted(said.splitlines())


@needs_go
@pytest.mark.timeout(BUILD_SECONDS + SECONDS + 120)
def test_no_client_is_told_to_calm_down(tmp_path):
    build = ["go", "build", "-o", str(tmp_path / "pings"), "."]
    built = subprocess.run(build, cwd=PROGRAM, capture_output=True, timeout=BUILD_SECONDS)
    assert built.returncode == 0, built.stderr.decode()
    with running_daemon() as daemon, strict_server() as strict:
        python = [Python(daemon.grpc, streams) for streams in (False, True)]
        watched = [Python(strict, streams) for streams in (False, True)]
        began = time.monotonic()
        go, punished = pinged_from_go(tmp_path / "pings", [daemon.grpc, strict])
        time.sleep(max(0.0, began + SECONDS - time.monotonic()))
        assert go == ["idle 1 ", "streaming 1 "]  # one connection each, and no complaint
        assert [client.end() for client in python] == [[], []]
        # What a server without these settings does is seen, so it would be seen of the daemon.
        assert punished != go
        assert all(client.end() for client in watched)
