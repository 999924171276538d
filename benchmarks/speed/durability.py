"""What durable bookings cost, and how soon a daemon serves after a crash with many of them.

Daemons with `--state :memory:`, `--durability process` and `--durability power` take turns in
answering `Route` and `RouteStream`, 16 in flight over loopback, as in `speed/rpc.py`. Another with
100,000 bookings is killed and started again: measured is the time from the start of the process to
its first answer.

Prints a table and writes build/bench/durability.json.
"""

import argparse
import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
from eldr.v1 import fleet_pb2, fleet_pb2_grpc, router_pb2, router_pb2_grpc

from benchmarks.speed import paired
from benchmarks.speed.rpc import (
    MODEL,
    ROUTE,
    ROUTE_STREAM,
    Server,
    daemon,
    requests,
    set_up,
    stream,
    unary,
)
from benchmarks.speed.signatures import drawn_counts

GOAL = 0.85
BOOKINGS = 100_000


def rates(turns: int, seconds: float) -> dict[str, Any]:
    """Requests per second for each kind of daemon, and ratios to the one that keeps nothing."""
    counts = drawn_counts(256)
    bodies = requests(counts)
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for kind in ("nothing kept", "process", "power"):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            kept = (f"--state={folder}", f"--durability={kind}") if servers else ()
            servers[kind] = stack.enter_context(daemon(*kept))
            set_up(servers[kind].address, counts)

        def calls(kind: str, method: str) -> Callable[[], Coroutine[None, None, list[float]]]:
            run = unary if method == ROUTE else stream
            return lambda: run(servers[kind].address, method, bodies, seconds)

        seen: dict[tuple[str, str], list[float]] = {}
        for turn in range(-1, turns):  # the first warms up
            for method in (ROUTE, ROUTE_STREAM):
                for kind in list(servers)[:: -1 if turn % 2 else 1]:
                    took = asyncio.run(calls(kind, method)())
                    if turn >= 0:
                        seen.setdefault((kind, method), []).append(len(took) / seconds)
    return {
        f"{method.rpartition('/')[2]}, {kind}": paired.ratio(
            seen[kind, method], seen["nothing kept", method]
        )
        for method in (ROUTE, ROUTE_STREAM)
        for kind in ("process", "power")
    }


async def book(address: str, ids: Iterator[str], in_flight: int = 64) -> None:
    """Book requests without signatures."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = router_pb2_grpc.RouterServiceStub(channel)

        async def keep_calling() -> None:
            for request_id in ids:
                await stub.Route(router_pb2.RouteRequest(model=MODEL, request_id=request_id))

        await asyncio.gather(*(keep_calling() for _ in range(in_flight)))


def restart(bookings: int) -> dict[str, dict[str, float]]:
    """Seconds from the start of a process to its first answer, with and without bookings.

    Also its processor time, which other programs on the machine affect less.
    """
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("first start", "empty", "bookings"):
            if name == "bookings":
                with daemon(f"--state={folder}") as server:
                    asyncio.run(book(server.address, (f"r{n}" for n in range(bookings))))
                    os.kill(server.pid, signal.SIGKILL)
            began = time.perf_counter()
            with daemon(f"--state={folder}") as server:
                with grpc.insecure_channel(server.address) as channel:
                    fleet = fleet_pb2_grpc.FleetServiceStub(channel)
                    listed = fleet.ListWorkers(fleet_pb2.ListWorkersRequest())
                    passed = time.perf_counter() - began
                    seconds[name] = {"passed": passed, "processor": server.processor_seconds()}
                    booked = sum(worker.booked_sequences for worker in listed.workers)
                    assert booked == bookings * (name == "bookings"), booked
                if name == "first start":
                    set_up(server.address, drawn_counts(256))
                os.kill(server.pid, signal.SIGKILL)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of each measurement")
    parser.add_argument("--bookings", type=int, default=BOOKINGS)
    paired.add_options(parser, "durability")
    options = parser.parse_args()
    result: dict[str, Any] = {"restart": restart(options.bookings)}
    for name, seconds in result["restart"].items():
        print(
            f"serving after {seconds['passed']:.2f} s, {seconds['processor']:.2f} s of processor"
            f" time: {name}"
        )
    result["ratios"] = rates(options.turns, options.seconds)
    goals = {"Route, process": GOAL, "RouteStream, process": GOAL}
    paired.finish("Rates with bookings kept, to those without", result, goals, options)


if __name__ == "__main__":
    main()
