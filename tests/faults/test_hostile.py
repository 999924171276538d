"""Peers that mean harm cost the daemon a bounded amount of memory."""

import socket
import time
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from daemon import running_daemon
from eldr.v1 import fleet_pb2, router_pb2
from google.protobuf.duration_pb2 import Duration
from wire import METHODS, Client, Refused, counts, drawn, eventually, path_of

STREAMS = 10_000
SLOW_STREAMS = 4
MB = 1 << 20
LONG = "x" * 400
PATHS = {method.name: path_of(method) for method in METHODS}


def resident(daemon, what="VmRSS"):
    """Bytes of memory that the daemon has; or had at most (VmHWM)."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(what + ":"))
    return int(line.split()[1]) * 1_024


@pytest.fixture
def daemon():
    with running_daemon("--log-format", "json", "--max-workers", "100000") as daemon:
        with Client(daemon.grpc) as client:
            client.register("m", capacity=fleet_pb2.WorkerCapacity(sequences=1 << 20))
            client.route("m", "first")
        yield daemon
        with Client(daemon.grpc) as client:  # whatever came, it goes on serving
            client.route("m", "last")
        errors = [line for line in daemon.logs if line["level"] in ("error", "critical")]
        # What gRPC says itself where a peer is gone before it is told that its stream ends.
        assert not [line for line in errors if line.get("logger") != "grpc._cython.cygrpc"]


def route_stream(name):
    return router_pb2.RouteStreamRequest(model="m", request_id=f"{name}{LONG}")


def waiting_route_stream(name):
    return router_pb2.RouteStreamRequest(
        model="m", request_id=f"{name}{LONG}", max_wait=Duration(seconds=1)
    )


SIGNATURE = counts(drawn(0))


def signature(name):
    return router_pb2.StreamSignaturesRequest(
        model="m", request_id=f"{name}{LONG}", counts=SIGNATURE, last=True
    )


class Unread:
    """A stream on which messages are sent while the daemon takes them, and nothing is read."""

    def __init__(self, stack, address, method, make, name):
        # A window of its own that does not grow: what it does not read is the daemon's affair.
        channel = grpc.insecure_channel(
            address, [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
        )
        stack.callback(channel.close)
        self.sent = 0
        self._make, self._name = make, name
        self._answers = channel.stream_stream(PATHS[method])(self._messages(), timeout=280)

    def _messages(self):
        while True:
            self.sent += 1
            yield self._make(f"{self._name}-{self.sent}").SerializeToString()

    def end(self):
        """How many answers were on their way, and the status after them."""
        read = 0
        try:
            for _ in self._answers:
                read += 1
        except grpc.RpcError as error:
            return read, error
        raise AssertionError("it ended well")


@pytest.mark.parametrize(
    ("method", "make"),
    [
        ("RouteStream", route_stream),
        ("RouteStream", waiting_route_stream),
        ("StreamSignatures", signature),
    ],
    ids=["RouteStream", "RouteStream with max_wait", "StreamSignatures"],
)
def test_answers_that_are_not_read(daemon, method, make):
    with ExitStack() as stack:
        unread = [Unread(stack, daemon.grpc, method, make, n) for n in range(SLOW_STREAMS)]
        stands_still(lambda: sum(stream.sent for stream in unread))
        full = resident(daemon)
        time.sleep(21)  # a stream is given 20 s
        assert resident(daemon) < full + 4 * MB
        ends = [stream.end() for stream in unread]
        for stream, (read, error) in zip(unread, ends, strict=True):
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error
            assert "not been read for 20 s" in error.details()
            assert read < stream.sent
    with Client(daemon.grpc) as client:  # what was booked is what was answered
        if method == "RouteStream":
            answered = sum(read for read, _ in ends)
            eventually(lambda: abs(client.booked("m") - 1 - answered) <= SLOW_STREAMS)


def stands_still(number, seconds=3.0, limit=120):
    """Wait until a number has not changed for some seconds."""
    deadline = time.monotonic() + limit
    last, since = number(), time.monotonic()
    while time.monotonic() - since < seconds:
        assert time.monotonic() < deadline, f"still growing: {last}"
        time.sleep(0.1)
        if (now := number()) != last:
            last, since = now, time.monotonic()


def test_changes_that_a_watcher_does_not_read(daemon):
    with ExitStack() as stack:
        channel = stack.enter_context(
            grpc.insecure_channel(daemon.grpc, [("grpc.http2.bdp_probe", 0)])
        )
        watches = [channel.unary_stream(PATHS["WatchWorkers"])(b"") for _ in range(SLOW_STREAMS)]
        client = stack.enter_context(Client(daemon.grpc))
        before = resident(daemon)
        labels = {f"{number}": "x" * 250 for number in range(60)}
        for _ in range(5_000):
            client.register("m", "flaps", labels=labels)
        held = resident(daemon)
        assert held < before + 200 * MB  # 4,096 changes of 40 KB, shared by the watchers
        for _ in range(2_000):
            client.register("m", "flaps", labels=labels)
        assert resident(daemon) < held + 16 * MB
        for watch in watches:
            with pytest.raises(grpc.RpcError) as raised:
                for _ in watch:
                    pass
            assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            why = raised.value.details()  # on a busy machine their time may be over first
            assert "changes behind" in why or "have not been read" in why


@pytest.mark.parametrize("method", ["RouteStream", "StreamSignatures", "Route"])
def test_streams_that_say_nothing(daemon, method):
    """Opened, and no message sent; a unary call too, which is held open in the same way."""
    with ExitStack() as stack:
        before = resident(daemon)
        host, _, port = daemon.grpc.rpartition(":")
        frames = Frames(path=PATHS[method])
        opened = 0
        while opened < STREAMS:
            peer = stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
            opened += frames.open_streams(peer, min(4_000, STREAMS - opened))
        client = stack.enter_context(Client(daemon.grpc))
        eventually(lambda: works(client))  # once gRPC has handed all of them over
        assert client.release("m", "unknown") == "UNKNOWN"
        held = resident(daemon)
        assert held < before + STREAMS * 40_000
    with Client(daemon.grpc) as client:
        eventually(lambda: works(client))


def works(client):
    try:
        return client.booked("m") == 1
    except grpc.RpcError:
        return False


class Frames:
    """HTTP/2 frames that begin calls and say no more."""

    def __init__(self, path):
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "eldr"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        # Literals without indexing: a name and a value, each with its length.
        self._block = b"".join(
            b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
            for name, value in fields
        )

    def open_streams(self, peer, number):
        peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self._frame(4, 0, 0, b""))
        for stream in range(1, 2 * number, 2):
            peer.sendall(self._frame(1, 4, stream, self._block))  # HEADERS, END_HEADERS
        return number

    @staticmethod
    def _frame(kind, flags, stream, payload):
        return (
            len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
        ) + payload


@pytest.mark.parametrize("unpacked", [100 * MB, 1_000 * MB])
def test_messages_that_unpack_to_more_than_the_limit(daemon, unpacked):
    before = resident(daemon)
    with grpc.insecure_channel(daemon.grpc, [("grpc.max_send_message_length", -1)]) as channel:
        for method in ("Route", "RouteStream"):
            kind = "stream_stream" if "Stream" in method else "unary_unary"
            call = getattr(channel, kind)(PATHS[method])
            body = b"\0" * unpacked
            with Refused("RESOURCE_EXHAUSTED"):
                packed = {"compression": grpc.Compression.Gzip, "timeout": 120}
                if kind == "unary_unary":
                    call(body, **packed)
                else:
                    list(call(iter([body]), **packed))
    assert resident(daemon, "VmHWM") < before + 160 * MB  # a message may have 64 MiB


@pytest.mark.parametrize(
    "metadata",
    [
        [("key", "x" * (20 << 20))],
        [(f"key-{number}", "x" * 100) for number in range(20_000)],
    ],
    ids=["one of 20 MB", "20,000 of 100 bytes"],
)
def test_metadata_without_end(daemon, metadata):
    before = resident(daemon)
    with Client(daemon.grpc) as client:
        request = router_pb2.RouteRequest(model="m", request_id="r")
        for _ in range(20):
            with Refused("RESOURCE_EXHAUSTED"):
                client.router.Route(request, metadata=metadata, timeout=60)
    assert resident(daemon, "VmHWM") < before + 100 * MB
