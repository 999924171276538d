"""What the decision log costs: decisions with and without it, and bytes per decision.

Whole placements and their releases, from bytes to bytes, as in `speed/decision.py` (48 layers x 128
experts, 24 workers), one after another without a pause: the writer's thread then never finds the
processor idle, so this is the worst case. Then calls of `Route` on two daemons, one of which logs.
Off and on take turns.

Prints a table and writes build/bench/decision_log.json.
"""

import argparse
import asyncio
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a decision has one core; must precede NumPy

import numpy as np

from benchmarks.speed import paired, rpc
from benchmarks.speed.decision import Setup, times
from benchmarks.speed.signatures import drawn_counts
from eldr_service.decision_log.recorder import Recorder
from eldr_service.decision_log.writer import Writer
from eldr_service.kernels import warm_up
from eldr_service.server.observability.logging import configure_logging

WORKERS = 24
MAX_BYTES = 1_000_000_000
GOALS = {"Route, calls/s": 0.9, "Route, p99 s": 0.8}


class Counting:
    """What the writer reports."""

    def __init__(self) -> None:
        self.lost = self.wrote = 0

    def on_lost(self, events: int) -> None:
        self.lost += events

    def on_wrote(self, size: int) -> None:
        self.wrote += size


def in_process(turns: int, requests: int, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    told = Counting()
    writer = Writer(folder, MAX_BYTES, told.on_lost, told.on_wrote)
    recorder = Recorder(writer, told.on_lost)
    logged, plain = Setup(WORKERS, requests, recorder), Setup(WORKERS, requests)
    recorder.watch(logged.router)
    began = time.perf_counter()
    recorder.tick()
    snapshot = time.perf_counter() - began
    idle(writer)
    before, took = told.wrote, {"on": [], "off": []}
    for turn in range(turns + 1):
        for name, setup in (("on", logged), ("off", plain))[:: -1 if turn % 2 else 1]:
            took[name].append(times(setup.place, range(requests)))
            idle(writer)
    size = (told.wrote - before) / (requests * (turns + 1))
    recorder.close()

    def ratio(percentile: float) -> paired.Ratio:
        on, off = ([float(np.percentile(t, percentile)) for t in took[n][1:]] for n in took)
        return paired.ratio(on, off, less=True)

    ratios = {
        "a placement and its release, p50 us": ratio(50),
        "a placement and its release, p99 us": ratio(99),
    }
    return ratios, {"bytes": size, "lost": told.lost, "snapshot_us": 1e6 * snapshot}


def idle(writer: Writer) -> None:
    """Let the writer finish, so that it does not write during the other's turn."""
    while writer.pending_bytes:
        time.sleep(0.01)


def over_calls(turns: int, seconds: float, folder: Path) -> dict[str, Any]:
    counts = drawn_counts(256)
    bodies = rpc.requests(counts)
    with ExitStack() as stack:
        servers = {
            "on": stack.enter_context(rpc.daemon(f"--decision-log={folder}")),
            "off": stack.enter_context(rpc.daemon()),
        }
        seen: dict[str, list[rpc.Seen]] = {name: [] for name in servers}
        for server in servers.values():
            rpc.set_up(server.address, counts)
        for turn in range(turns + 1):
            for name in list(servers)[:: -1 if turn % 2 else 1]:
                server = servers[name]
                before = server.processor_seconds()
                took = asyncio.run(rpc.unary(server.address, rpc.ROUTE, bodies, seconds))
                used = server.processor_seconds() - before
                p50, p99 = np.percentile(took, [50, 99])
                rate = len(took) / seconds
                seen[name].append(rpc.Seen(rate, float(p50), float(p99), used / len(took)))

    def ratio(field: str, less: bool) -> paired.Ratio:
        on, off = ([getattr(s, field) for s in seen[name][1:]] for name in ("on", "off"))
        return paired.ratio(on, off, less=less)

    return {
        "Route, calls/s": ratio("rate", less=False),
        "Route, p50 s": ratio("p50", less=True),
        "Route, p99 s": ratio("p99", less=True),
        "Route, processor seconds": ratio("processor", less=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="duration of each measurement of calls"
    )
    paired.add_options(parser, "decision_log")
    options = parser.parse_args()
    configure_logging("console", "warning")
    warm_up()
    with tempfile.TemporaryDirectory() as folder:
        ratios, each = in_process(options.turns, options.requests, Path(folder, "here"))
        ratios |= over_calls(options.turns, options.seconds, Path(folder, "daemon"))
    result = {"ratios": ratios, "each": each}
    paired.finish("With the log beside without", result, GOALS, options)
    print(
        f"a decision and its release take {each['bytes']:,.0f} bytes of the log; a snapshot holds"
        f" decisions up for {each['snapshot_us']:.0f} us; events lost: {each['lost']}"
    )


if __name__ == "__main__":
    main()
