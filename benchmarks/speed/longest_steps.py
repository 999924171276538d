"""How long the largest messages and a scrape block the event loop at a time.

Placements wait while the loop executes a step. A daemon measures each of its steps: its thread's
processor time, which other programs on the machine affect little. It runs on asyncio's own loop, as
uvloop does not tell when a step starts; the steps are the same. Garbage collections, which any call
can trigger, are excluded. 1,000 workers are scraped and listed; one with 60,000 bookings reports
them and 5,536 more requests, and the leases of all are renewed.

Prints a table and writes build/bench/longest_steps.json.
"""

import argparse
import asyncio
import gc
import json
import os
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
from eldr.v1 import fleet_pb2, fleet_pb2_grpc, router_pb2, router_pb2_grpc
from rich.console import Console
from rich.table import Table

from benchmarks.speed.durability import book
from benchmarks.speed.rpc import MODEL, Server, daemon
from benchmarks.written import written
from eldr_service.server.rpc.reading import MAX_LISTED

WORKERS = 1_000
BOOKED = 60_000
ROUNDS = 5
GOALS = {
    "scrape": 2e-3,
    "scrape, compressed": 2e-3,
    "scrape, OpenMetrics": 2e-3,
    "ListWorkers": 2e-3,
    "ReportLoad": 5e-3,
    "RenewLeases": 5e-3,
}
MEASURED = "from benchmarks.speed.longest_steps import run_measured; run_measured({!r})"


def run_measured(told: str) -> None:
    """Run the daemon; on SIGUSR1 it writes its longest step so far, in seconds, and resets it."""
    sys.modules["uvloop"] = None  # type: ignore[assignment]
    step, longest, collecting, began_collecting = asyncio.Handle._run, 0.0, 0.0, 0.0

    def collects(phase: str, _: object) -> None:
        nonlocal collecting, began_collecting
        if phase == "start":
            began_collecting = time.thread_time()
        else:
            collecting += time.thread_time() - began_collecting

    def measured(handle: asyncio.Handle) -> None:
        nonlocal longest, collecting
        began, collecting = time.thread_time(), 0.0
        step(handle)
        longest = max(longest, time.thread_time() - began - collecting)

    def tell(*_: object) -> None:
        nonlocal longest
        Path(told).write_text(json.dumps(longest))
        longest = 0.0

    gc.callbacks.append(collects)

    asyncio.Handle._run = measured  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR1, tell)
    from eldr_service.server import main as run_daemon

    run_daemon()


@contextmanager
def measured_daemon(*flags: str) -> Iterator[tuple[Server, Callable[[], float]]]:
    """A daemon, and a function that returns its longest step since the previous call."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "longest")
        with daemon(*flags, run=MEASURED.format(str(path))) as server:

            def longest() -> float:
                time.sleep(0.2)  # the step that answered still runs
                path.unlink(missing_ok=True)
                os.kill(server.pid, signal.SIGUSR1)
                while not path.exists() or not path.read_text():
                    time.sleep(0.01)
                return float(path.read_text())

            yield server, longest


def scraped(http: str, **headers: str) -> bytes:
    """The answer to a scrape."""
    request = urllib.request.Request(f"http://{http}/metrics", headers=headers)
    with urllib.request.urlopen(request) as answer:
        return bytes(answer.read())


def reports(stub: fleet_pb2_grpc.FleetServiceStub, ids: list[str]) -> Iterator[Any]:
    """Reports of one worker that holds all these requests, each with its own number."""
    worker = fleet_pb2.RegisterWorkerRequest(worker_id="busy", model=MODEL, url="u")
    worker.capacity.sequences = 1 << 30
    incarnation = stub.RegisterWorker(worker).incarnation
    number = 0
    while True:
        number += 1
        yield fleet_pb2.ReportLoadRequest(
            model=MODEL,
            worker_id="busy",
            incarnation=incarnation,
            report_number=number,
            held=[fleet_pb2.HeldRequest(request_id=name) for name in ids],
        )


def measure(rounds: int) -> dict[str, list[float]]:
    """The longest steps of each kind of call, in seconds, one per round."""
    ids = [f"request-{number}" for number in range(MAX_LISTED)]
    with ExitStack() as stack:
        server, longest = stack.enter_context(measured_daemon("--log-level=error"))
        channel = stack.enter_context(grpc.insecure_channel(server.address))
        fleet = fleet_pb2_grpc.FleetServiceStub(channel)
        router = router_pb2_grpc.RouterServiceStub(channel)
        report = reports(fleet, ids)
        fleet.ReportLoad(next(report))
        asyncio.run(book(server.address, iter(ids[:BOOKED])))
        for number in range(WORKERS - 1):
            fleet.RegisterWorker(
                fleet_pb2.RegisterWorkerRequest(worker_id=f"w{number}", model=MODEL, url="u")
            )
        leases = router_pb2.RenewLeasesRequest(
            model=MODEL, leases=[router_pb2.LeaseReference(request_id=name) for name in ids]
        )
        listed = fleet_pb2.ListWorkersRequest()
        calls: dict[str, Callable[[], object]] = {
            "scrape": lambda: scraped(server.http),
            "scrape, compressed": lambda: scraped(server.http, **{"Accept-Encoding": "gzip"}),
            "scrape, OpenMetrics": lambda: scraped(
                server.http, Accept="application/openmetrics-text; version=1.0.0"
            ),
            "ListWorkers": lambda: fleet.ListWorkers(listed),
            "ReportLoad": lambda: fleet.ReportLoad(next(report)),
            "RenewLeases": lambda: router.RenewLeases(leases),
            "nothing": lambda: time.sleep(0.5),
        }
        found: dict[str, list[float]] = {}
        for turn in range(-1, rounds):  # the first warms up
            for name, call in calls.items():
                longest()
                call()
                took = longest()
                if turn >= 0:
                    found.setdefault(name, []).append(took)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    found = measure(parser.parse_args().rounds)
    table = Table("CALL", "MEDIAN, ms", "MOST, ms", "GOAL, ms", title="the loop's longest step")
    for name, seconds in found.items():
        goal = f"{GOALS[name] * 1e3:.0f}" if name in GOALS else ""
        middle = sorted(seconds)[len(seconds) // 2]
        table.add_row(name, f"{middle * 1e3:.2f}", f"{max(seconds) * 1e3:.2f}", goal)
    Console().print(table)
    missed = [name for name, goal in GOALS.items() if max(found[name]) > goal]
    print(f"missed: {', '.join(missed)}" if missed else "all goals met")
    written("longest_steps", {"workers": WORKERS, "listed": MAX_LISTED, "seconds": found})


if __name__ == "__main__":
    main()
