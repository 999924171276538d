"""What several replicas on one Redis cost and gain, and how soon each sees another's bookings.

Daemons take turns in answering `Route`, as in `speed/rpc.py`: one with `--state :memory:`, one that
keeps its bookings in SQLite, one replica alone on a Redis, three on another, with as many calls in
flight over all three as over one. For the views, a request is booked at one replica while another
is polled for the number of bookings on the workers, until it reports one more.

Prints a table and writes build/bench/replicas_speed.json. Needs redis-server or valkey-server.
"""

import argparse
import asyncio
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import grpc
import numpy as np
from eldr.v1 import fleet_pb2, fleet_pb2_grpc, router_pb2, router_pb2_grpc

from benchmarks.speed import paired
from benchmarks.speed.rpc import IN_FLIGHT, ROUTE, WORKERS, Server, daemon, requests, set_up
from benchmarks.speed.signatures import drawn_counts

REPLICAS = 3
VIEWED = "viewed"
LOAD_SECONDS = 300.0  # the limit; the load ends with the measurement under it
KINDS = ("memory", "SQLite", "one on Redis", "three on Redis")
REDIS = shutil.which("redis-server") or shutil.which("valkey-server")


class Seen(NamedTuple):
    """One measurement: calls per second, seconds per call, processor time of daemons and Redis."""

    rate: float
    p50: float
    p99: float
    processor: float
    redis: float


@contextmanager
def redis() -> Iterator[Server]:
    """A Redis that keeps nothing on disk; its address is for `--state`."""
    if REDIS is None:
        sys.exit("needs redis-server or valkey-server: apt install redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder)
        started = subprocess.Popen([REDIS, *options], stdout=subprocess.DEVNULL)
        try:
            yield Server(f"redis://127.0.0.1:{port}", started.pid)
        finally:
            started.terminate()
            started.wait()


def eventually(is_so: Callable[[], bool], what: str) -> None:
    """Wait until the condition holds; exit after 30 s."""
    until = time.monotonic() + 30
    while not is_so():
        if time.monotonic() > until:
            sys.exit(f"{what}: not within 30 s")
        time.sleep(0.05)


def decides(address: str, body: bytes) -> bool:
    """Whether a daemon has the workers and the partition."""
    with grpc.insecure_channel(address) as channel:
        call = router_pb2.RouteRequest.FromString(body)
        call.dry_run = True
        try:
            placement = router_pb2_grpc.RouterServiceStub(channel).Route(call).placement
        except grpc.RpcError:
            return False
        return placement.partition_version > 0


async def calls(addresses: Sequence[str], bodies: Iterator[bytes], seconds: float) -> list[float]:
    """Seconds of each `Route`, with a constant number in flight, spread over the addresses."""
    took: list[float] = []
    channels = [grpc.aio.insecure_channel(address) for address in addresses]
    routes = [channel.unary_unary(ROUTE) for channel in channels]
    for route in routes:
        await route(next(bodies))  # connect
    end = time.perf_counter() + seconds

    async def keep_calling(route: grpc.aio.UnaryUnaryMultiCallable) -> None:
        while (began := time.perf_counter()) < end:
            await route(next(bodies))
            took.append(time.perf_counter() - began)

    turns = itertools.cycle(routes)
    await asyncio.gather(*(keep_calling(next(turns)) for _ in range(IN_FLIGHT)))
    for channel in channels:
        await channel.close()
    return took


async def view_delays(addresses: Sequence[str], bookings: int, prefix: str) -> list[float]:
    """Seconds from the call that books at one replica until another one counts the booking."""
    channels = [grpc.aio.insecure_channel(address) for address in addresses[:2]]
    route = router_pb2_grpc.RouterServiceStub(channels[0]).Route
    workers = fleet_pb2_grpc.FleetServiceStub(channels[1]).ListWorkers

    async def booked() -> int:
        listed = await workers(fleet_pb2.ListWorkersRequest(model=VIEWED))
        return sum(worker.booked_sequences for worker in listed.workers)

    took = []
    there = await booked()
    for number in range(bookings):
        began = time.perf_counter()
        call = route(router_pb2.RouteRequest(model=VIEWED, request_id=f"{prefix}{number}"))
        while await booked() == there + number:
            pass
        took.append(time.perf_counter() - began)
        await call
    for channel in channels:
        await channel.close()
    return took


async def views(addresses: Sequence[str], bodies: Iterator[bytes], bookings: int) -> dict[str, Any]:
    """p50 and p99 of the delays, with the replicas idle and under load."""
    seen = {"idle": await view_delays(addresses, bookings, "idle")}
    load = asyncio.create_task(calls(addresses, bodies, LOAD_SECONDS))
    loaded = asyncio.create_task(view_delays(addresses, bookings, "load"))
    await asyncio.wait([load, loaded], return_when=asyncio.FIRST_COMPLETED)
    if not loaded.done():
        sys.exit(f"{bookings} bookings took longer than {LOAD_SECONDS:g} s to be seen")
    seen["under load"] = loaded.result()
    load.cancel()
    return {
        name: dict(zip(("p50", "p99"), np.percentile(took, [50, 99]).tolist(), strict=True))
        for name, took in seen.items()
    }


def measure(turns: int, seconds: float, bookings: int) -> dict[str, Any]:
    counts = drawn_counts(256)
    bodies = requests(counts)
    with ExitStack() as stack:
        shared = stack.enter_context(redis())
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        states = (":memory:", folder, f"{shared.address}/0", f"{shared.address}/1")
        kinds: dict[str, list[Server]] = {}
        for kind, state in zip(KINDS, states, strict=True):
            number = REPLICAS if kind == KINDS[-1] else 1
            servers = [stack.enter_context(daemon(f"--state={state}")) for _ in range(number)]
            set_up(servers[0].address, counts)
            for server in servers:
                eventually(lambda: decides(server.address, next(bodies)), kind)  # noqa: B023
            kinds[kind] = servers

        def see(kind: str) -> Seen:
            servers = kinds[kind]
            before = sum(s.processor_seconds() for s in servers), shared.processor_seconds()
            took = asyncio.run(calls([s.address for s in servers], bodies, seconds))
            used = sum(s.processor_seconds() for s in servers) - before[0]
            of_redis = shared.processor_seconds() - before[1]
            p50, p99 = np.percentile(took, [50, 99]).tolist()
            return Seen(len(took) / seconds, p50, p99, used / len(took), of_redis / len(took))

        seen: dict[str, list[Seen]] = {kind: [] for kind in KINDS}
        for turn in range(-1, turns):  # the first warms up
            for kind in KINDS[:: -1 if turn % 2 else 1]:
                if (found := see(kind)) and turn >= 0:
                    seen[kind].append(found)
        addresses = [server.address for server in kinds[KINDS[-1]]]
        with grpc.insecure_channel(addresses[0]) as channel:
            worker = fleet_pb2.RegisterWorkerRequest(worker_id="w", model=VIEWED, url="http://w")
            worker.capacity.sequences = 1 << 30
            fleet_pb2_grpc.FleetServiceStub(channel).RegisterWorker(worker)
        time.sleep(1.0)
        delays = asyncio.run(views(addresses, bodies, bookings))
    memory, _, one, three = KINDS
    rate = {kind: [s.rate for s in each] for kind, each in seen.items()}
    tail = {kind: [s.p99 for s in each] for kind, each in seen.items()}
    cost = {kind: [s.processor for s in each] for kind, each in seen.items()}
    ratios = {f"{k}: rate / {memory}": paired.ratio(rate[k], rate[memory]) for k in KINDS[1:]}
    for name, of, less in (
        ("rate", rate, False),
        ("p99 s", tail, True),
        ("processor s", cost, True),
    ):
        ratios[f"{three}: {name} / {one}"] = paired.ratio(of[three], of[one], less=less)
    return {
        "in_flight": IN_FLIGHT,
        "workers": WORKERS,
        "cores": os.cpu_count(),
        "medians": {k: Seen(*np.median(v, axis=0).tolist())._asdict() for k, v in seen.items()},
        "views": delays,
        "ratios": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of each measurement")
    parser.add_argument("--bookings", type=int, default=500, help="bookings to time in views")
    paired.add_options(parser, "replicas_speed")
    options = parser.parse_args()
    result = measure(options.turns, options.seconds, options.bookings)
    for kind, seen in result["medians"].items():
        print(
            f"{kind}: {seen['rate']:.0f} calls/s, p50 {1e3 * seen['p50']:.1f} ms, p99"
            f" {1e3 * seen['p99']:.1f} ms; processor per call: {1e6 * seen['processor']:.0f} us of"
            f" the daemons', {1e6 * seen['redis']:.0f} of Redis"
        )
    for name, delay in result["views"].items():
        p50, p99 = 1e3 * delay["p50"], 1e3 * delay["p99"]
        print(f"another replica has a booking after {p50:.1f} ms (p99 {p99:.1f}), {name}")
    paired.finish("Route, 16 in flight over all replicas", result, {}, options)


if __name__ == "__main__":
    main()
