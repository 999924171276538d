"""What a placement costs over the wire, next to a bare gRPC echo of the same bytes.

A real `eldr-server` at its defaults and a `grpc.aio` echo server, each in its own process, take
turns in answering this process: 16 requests in flight over loopback, each a `Route` with the inline
counts of 48 layers x 128 experts (12 KB). 24 workers, a partition of 24 slots, `locality-band`.
Requests and answers stay bytes here, so that the client costs little. The same is measured over
`RouteStream`, and over `StreamSignatures` with a placement asked for at once. The echo runs on
asyncio as in gRPC's own examples, and for comparison on uvloop as the daemon does. Another baseline
is the best that gRPC allows the daemon: `Route` and `RouteStream` on uvloop, with the daemon's own
messages, and handlers that decide nothing and always give the same answer.

Prints a table and writes build/bench/rpc.json.
"""

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import uvloop
from eldr.v1 import fleet_pb2, fleet_pb2_grpc, partition_pb2, partition_pb2_grpc, router_pb2
from eldr_client.counts import Counts

from benchmarks.speed import paired
from benchmarks.speed.signatures import GEOMETRY, TOKENS, drawn_counts
from eldr_service.core.partition import Partition
from eldr_service.core.signature import SignatureTransform
from eldr_service.stores.partition_file import dump_partition

MODEL = "m"
WORKERS = 24
IN_FLIGHT = 16
DAEMON = "from eldr_service.server import main; main()"
ECHO = "/bench.Echo/Echo"
UNDECIDED = "/bench.Echo/Route"
UNDECIDED_STREAM = "/bench.Echo/RouteStream"
ROUTE = "/eldr.v1.RouterService/Route"
ROUTE_STREAM = "/eldr.v1.RouterService/RouteStream"
SIGNATURES = "/eldr.v1.RouterService/StreamSignatures"
GOALS = {"Route, calls/s": 0.85, "Route, p99 s": 1 / 1.3, "RouteStream, requests/s": 1.5}
# Python's own time; benchmarks/README.md says where it goes. The same code has had 0.38 to 0.58 for
# `Route` here, as the speed of the machine's memory varied from day to day.
FLOORS = {"Route, calls/s": 0.33, "Route, p99 s": 0.4, "RouteStream, requests/s": 0.5}


async def serve_echo() -> None:
    """Echo, or send a prepared answer, until told to stop; prints the address."""
    worker = router_pb2.WorkerTarget(worker_id="w1", url="http://10.0.0.1:8000")
    placement = router_pb2.Placement(
        worker_id="w0", url="http://10.0.0.0:8000", alternates=[worker] * 3
    )
    answer = router_pb2.RouteResponse(placement=placement)
    stream_answer = router_pb2.RouteStreamResponse(model=MODEL, placement=placement)

    async def echo(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return request

    async def route(
        request: router_pb2.RouteRequest, context: grpc.aio.ServicerContext
    ) -> router_pb2.RouteResponse:
        return answer

    async def route_stream(requests: object, context: grpc.aio.ServicerContext) -> None:
        while await context.read() is not grpc.aio.EOF:
            await context.write(stream_answer)

    server = grpc.aio.server()
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Route": grpc.unary_unary_rpc_method_handler(
            route,
            router_pb2.RouteRequest.FromString,
            router_pb2.RouteResponse.SerializeToString,
        ),
        "RouteStream": grpc.stream_stream_rpc_method_handler(
            route_stream,
            router_pb2.RouteStreamRequest.FromString,
            router_pb2.RouteStreamResponse.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


class Server(NamedTuple):
    """A server in its own process."""

    address: str
    pid: int
    http: str = ""

    def processor_seconds(self) -> float:
        """Its processor time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Seen(NamedTuple):
    """One measurement: calls per second, seconds and the server's processor time per call."""

    rate: float
    p50: float
    p99: float
    processor: float


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[str]]:
    """Run Python beside this process."""
    started = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield started
    finally:
        started.terminate()
        started.communicate()


@contextmanager
def echo_server(*options: str) -> Iterator[Server]:
    with process("-m", "benchmarks.speed.rpc", "--serve-echo", *options) as started:
        assert started.stdout
        yield Server(started.stdout.readline().strip(), started.pid)


@contextmanager
def daemon(*options: str, run: str = DAEMON) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        ports = Path(folder, "ports")
        flags = ("--listen=127.0.0.1:0", "--http=127.0.0.1:0", "--state=:memory:", *options)
        with process("-c", run, *flags, "--drain-seconds=0", f"--port-file={ports}") as started:
            while not ports.exists():
                if started.poll() is not None:
                    raise SystemExit(f"the daemon did not start: {started.communicate()[1]}")
                time.sleep(0.05)
            addresses = json.loads(ports.read_text())
            yield Server(addresses["grpc"], started.pid, addresses["http"])


def set_up(target: str, counts: np.ndarray) -> None:
    """Register the workers and activate a partition."""
    transform = SignatureTransform(GEOMETRY, "sqrt")
    partition = Partition(MODEL, transform, transform.apply(counts[:WORKERS]))
    with grpc.insecure_channel(target) as channel:
        fleet = fleet_pb2_grpc.FleetServiceStub(channel)
        for number in range(WORKERS):
            worker = fleet_pb2.RegisterWorkerRequest(
                worker_id=f"w{number}", model=MODEL, url=f"http://10.0.0.{number}:8000"
            )
            worker.capacity.sequences = 1 << 30  # nothing is released here
            fleet.RegisterWorker(worker)
        partition_pb2_grpc.PartitionServiceStub(channel).ImportPartition(
            partition_pb2.ImportPartitionRequest(data=dump_partition(partition), activate=True)
        )


def requests(counts: np.ndarray) -> Iterator[bytes]:
    """Endless Route requests, serialised; each with its own id."""
    bodies = [
        router_pb2.RouteRequest(
            model=MODEL, prompt_tokens=TOKENS, counts=Counts(c, GEOMETRY.top_k).to_proto()
        ).SerializeToString()
        for c in counts
    ]
    for number in itertools.count():
        # A message's fields may come in any order, so they can be appended.
        identity = router_pb2.RouteRequest(request_id=f"r{number}").SerializeToString()
        yield bodies[number % len(bodies)] + identity


def signatures(counts: np.ndarray) -> Iterator[bytes]:
    """Endless StreamSignatures requests: a whole signature that asks for its placement."""
    bodies = [
        router_pb2.StreamSignaturesRequest(
            model=MODEL,
            prompt_tokens=TOKENS,
            last=True,
            counts=Counts(c, GEOMETRY.top_k).to_proto(),
            route=router_pb2.RouteRequest(),
        ).SerializeToString()
        for c in counts
    ]
    for number in itertools.count():
        identity = router_pb2.StreamSignaturesRequest(request_id=f"s{number}").SerializeToString()
        yield bodies[number % len(bodies)] + identity


async def unary(target: str, method: str, bodies: Iterator[bytes], seconds: float) -> list[float]:
    """Seconds of each call that ended within `seconds`, with a constant number in flight."""
    took: list[float] = []
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary(method)
        await call(next(bodies))  # connect
        end = time.perf_counter() + seconds

        async def keep_calling() -> None:
            while (began := time.perf_counter()) < end:
                await call(next(bodies))
                took.append(time.perf_counter() - began)

        await asyncio.gather(*(keep_calling() for _ in range(IN_FLIGHT)))
    return took


async def stream(target: str, method: str, bodies: Iterator[bytes], seconds: float) -> list[float]:
    """The same over one stream; answers come in request order."""
    took: list[float] = []
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.stream_stream(method)()
        began = deque()

        async def write() -> None:
            began.append(time.perf_counter())
            await call.write(next(bodies))

        for _ in range(IN_FLIGHT):
            await write()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            answer = await call.read()
            if b"google.rpc" in answer:  # a status instead of a placement
                raise SystemExit(f"refused: {answer!r}")
            took.append(time.perf_counter() - began.popleft())
            await write()
        call.cancel()
    return took


def measure(turns: int, seconds: float) -> dict[str, Any]:
    counts = drawn_counts(256)
    bodies, chunks = requests(counts), signatures(counts)
    with echo_server() as echo, echo_server("--uvloop") as fast_echo, daemon() as router:
        set_up(router.address, counts)
        kinds: dict[str, tuple[Server, Callable[[], Coroutine[None, None, list[float]]]]] = {
            "echo": (echo, lambda: unary(echo.address, ECHO, bodies, seconds)),
            "echo on uvloop": (fast_echo, lambda: unary(fast_echo.address, ECHO, bodies, seconds)),
            "Route, nothing decided": (
                fast_echo,
                lambda: unary(fast_echo.address, UNDECIDED, bodies, seconds),
            ),
            "Route": (router, lambda: unary(router.address, ROUTE, bodies, seconds)),
            "RouteStream, nothing decided": (
                fast_echo,
                lambda: stream(fast_echo.address, UNDECIDED_STREAM, bodies, seconds),
            ),
            "RouteStream": (
                router,
                lambda: stream(router.address, ROUTE_STREAM, bodies, seconds),
            ),
            "StreamSignatures": (
                router,
                lambda: stream(router.address, SIGNATURES, chunks, seconds),
            ),
        }

        def see(name: str) -> Seen:
            server, run = kinds[name]
            before = server.processor_seconds()
            took = asyncio.run(run())
            used = server.processor_seconds() - before
            p50, p99 = np.percentile(took, [50, 99])
            return Seen(len(took) / seconds, float(p50), float(p99), used / len(took))

        for name in kinds:
            see(name)  # warm up
        seen: dict[str, list[Seen]] = {name: [] for name in kinds}
        for turn in range(turns):
            for name in list(kinds)[:: -1 if turn % 2 else 1]:
                seen[name].append(see(name))
    rate = {name: [s.rate for s in values] for name, values in seen.items()}
    tail = {name: [s.p99 for s in values] for name, values in seen.items()}
    return {
        "in_flight": IN_FLIGHT,
        "workers": WORKERS,
        "medians": {
            name: Seen(*np.median(values, axis=0).tolist())._asdict()
            for name, values in seen.items()
        },
        "ratios": {
            "Route, calls/s": paired.ratio(rate["Route"], rate["echo"]),
            "Route, p99 s": paired.ratio(tail["Route"], tail["echo"], less=True),
            "RouteStream, requests/s": paired.ratio(rate["RouteStream"], rate["echo"]),
            "Route, calls/s, nothing decided": paired.ratio(
                rate["Route, nothing decided"], rate["echo"]
            ),
            "RouteStream, requests/s, nothing decided": paired.ratio(
                rate["RouteStream, nothing decided"], rate["echo"]
            ),
            "StreamSignatures, placements/s": paired.ratio(rate["StreamSignatures"], rate["echo"]),
            "Route, calls/s, echo on uvloop": paired.ratio(rate["Route"], rate["echo on uvloop"]),
            "RouteStream, requests/s, echo on uvloop": paired.ratio(
                rate["RouteStream"], rate["echo on uvloop"]
            ),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serve-echo", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--uvloop", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of each measurement")
    paired.add_options(parser, "rpc")
    options = parser.parse_args()
    if options.serve_echo:
        (uvloop.run if options.uvloop else asyncio.run)(serve_echo())
    else:
        result = measure(options.turns, options.seconds)
        for name, median in result["medians"].items():
            print(f"{name}: {1e6 * median['processor']:.0f} us of the server's processor time each")
        paired.finish("Calls over loopback, 16 in flight", result, GOALS, options, FLOORS)


if __name__ == "__main__":
    main()
