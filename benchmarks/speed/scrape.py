"""How long a metrics scrape takes, beside one of a daemon without workers.

A scrape runs in the event loop, so placements wait for it. Each round scrapes the empty daemon and
the one with workers, over HTTP on loopback.

Prints a table and writes build/bench/scrape.json.
"""

import statistics
import time
import urllib.request
from typing import Any

import grpc
from eldr.v1 import fleet_pb2, fleet_pb2_grpc
from rich.console import Console
from rich.table import Table

from benchmarks.speed.rpc import daemon
from benchmarks.written import written

FLEETS = (64, 1_024, 4_096)
ROUNDS = 21
QUIET = "--log-level=error"  # nothing reads the log here


def scraped(http: str) -> float:
    """Seconds until the whole answer has arrived."""
    start = time.perf_counter()
    with urllib.request.urlopen(f"http://{http}/metrics") as answer:
        answer.read()
    return time.perf_counter() - start


def measure(workers: int, empty: str) -> dict[str, Any]:
    """Median seconds of a scrape with that many workers, and without any."""
    with daemon(QUIET) as server, grpc.insecure_channel(server.address) as channel:
        fleet = fleet_pb2_grpc.FleetServiceStub(channel)
        for number in range(workers):
            fleet.RegisterWorker(
                fleet_pb2.RegisterWorkerRequest(worker_id=f"decode-{number}", model="m", url="u")
            )
        rounds = [(scraped(empty), scraped(server.http)) for _ in range(ROUNDS)]
    without, ours = (statistics.median(times) for times in zip(*rounds, strict=True))
    return {
        "workers": workers,
        "seconds": ours,
        "without_workers": without,
        "ratio": ours / without,
        "microseconds_per_worker": (ours - without) / workers * 1e6,
    }


def main() -> None:
    with daemon(QUIET) as empty:
        found = [measure(workers, empty.http) for workers in FLEETS]
    table = Table("workers", "scrape, ms", "without workers, ms", "ratio", "µs per worker")
    for row in found:
        table.add_row(
            f"{row['workers']:,}",
            f"{row['seconds'] * 1e3:.1f}",
            f"{row['without_workers'] * 1e3:.1f}",
            f"{row['ratio']:.1f}",
            f"{row['microseconds_per_worker']:.0f}",
        )
    Console().print(table)
    written("scrape", {"rows": found})


if __name__ == "__main__":
    main()
