"""Memory per living booking, by policy.

Requests of 48 layers x 128 experts, 700 tokens each, ids of 36 characters, are booked and not
released: in the real daemon, whose resident memory is read, and in this process, where Python
counts the bytes of its objects. What the daemon keeps for explanations and fits is bounded,
and switched off here. The baseline is the counts alone as received, 2 bytes each.

Prints a table and writes build/bench/booking_memory.json.
"""

import argparse
import gc
import tracemalloc
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
from eldr.v1 import router_pb2, router_pb2_grpc
from rich.console import Console
from rich.table import Table

from benchmarks.speed.decision import Setup
from benchmarks.speed.held_signatures import PAGE_BYTES
from benchmarks.speed.rpc import daemon, set_up
from benchmarks.speed.signatures import GEOMETRY, drawn_counts
from benchmarks.written import written
from eldr_service.policies.registry import create
from eldr_service.server.rpc import reading

POLICIES = ("locality-band", "marginal-cost")
GOAL_BYTES = 4_096
KINDS = 256
FIRST = 1_000
"""Booked before measuring: they allocate what all bookings share, and what a policy learns."""


def requests(setup: Setup) -> Iterator[router_pb2.RouteRequest]:
    """Endless Route requests, each with its own id."""
    number = 0
    while True:
        number += 1
        request = router_pb2.RouteRequest.FromString(setup.bodies[number % KINDS])
        request.request_id = str(uuid.UUID(int=number * 0x9E3779B97F4A7C15))
        yield request


def in_daemon(policy: str, bookings: int) -> float:
    """Bytes of the daemon's resident memory per booking."""
    flags = ("--log-level=error", f"--policy={policy}", "--explanations=0", "--refit=off")
    with daemon(*flags) as server, grpc.insecure_channel(server.address) as channel:
        set_up(server.address, drawn_counts(KINDS))
        routes = requests(Setup(1, KINDS))
        router = router_pb2_grpc.RouterServiceStub(channel)

        def book(n: int) -> int:
            for _ in range(n):
                router.Route(next(routes))
            return int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * PAGE_BYTES

        before = book(FIRST)
        return (book(bookings) - before) / bookings


def in_objects(policy: str, bookings: int) -> float:
    """Bytes of retained objects per booking."""
    setup = Setup(24, KINDS, explained=0, capacity=1 << 30)
    made = create(policy, {})
    made.prepare()
    setup.model.set_policy(made)
    setup.model.recent.is_open = False
    routes = requests(setup)

    def book(n: int) -> None:
        for _ in range(n):
            setup.router.route(reading.route_call(next(routes)), 0.0)

    book(FIRST)
    gc.collect()
    tracemalloc.start()
    book(bookings)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] / bookings
    tracemalloc.stop()
    return grown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bookings", type=int, default=20_000)
    bookings = parser.parse_args().bookings
    counts = 2 * GEOMETRY.size
    table = Table("POLICY", "DAEMON", "OBJECTS", "OF THE COUNTS", title="bytes per booking")
    found = {}
    for policy in POLICIES:
        resident, objects = in_daemon(policy, bookings), in_objects(policy, bookings)
        found[policy] = {"resident": resident, "objects": objects, "counts": counts}
        table.add_row(policy, f"{resident:,.0f}", f"{objects:,.0f}", f"{resident / counts:.2f}")
    Console().print(table)
    verdict = "met" if max(f["resident"] for f in found.values()) <= GOAL_BYTES else "missed"
    print(f"goal, at most {GOAL_BYTES:,} bytes of the daemon's memory: {verdict}")
    written("booking_memory", {"bookings": bookings, "goal": GOAL_BYTES, "policies": found})


if __name__ == "__main__":
    main()
