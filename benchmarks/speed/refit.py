"""What a refit costs concurrent decisions.

The daemon's own router decides without pause, `locality-band` over 32 workers and 48 layers x 128
experts, in one event loop with the fitting process's parent side, as in the daemon. Blocks of some
seconds in which that process is started and refits the window over and over take turns with blocks
without, so that other load on the machine falls on both. A *decision* is choosing, booking and
adding the counts to the window; a *turn* is from the start of one decision to the next, with all
that the event loop does between them: handing over the window, taking back the new partition.
The goal is a ratio of at most 1.2. Run it at normal priority: the fitting process yields by being
niced, which has no effect beside an equally niced benchmark.

Prints a table and writes build/bench/refit.json.
"""

import argparse
import asyncio
import json
import platform
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from eldr_service.core.activation import ActivationCounts
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.worker import WorkerSpec, WorkerState
from eldr_service.fitting import fit_partition
from eldr_service.fitting.process import FittingProcess
from eldr_service.fitting.refit import Bound, refit
from eldr_service.kernels import warm_up
from eldr_service.policies.registry import create
from eldr_service.routing.call import RouteCall
from eldr_service.routing.partitions import Partitions
from eldr_service.routing.records import Records
from eldr_service.routing.router import Limits, Router
from eldr_service.routing.workers import Workers
from eldr_service.server.observability.logging import configure_logging
from eldr_service.server.rpc.telemetry import Telemetry
from eldr_service.stores.sqlite import SqliteStore

MODEL = "model"
GEOMETRY = ModelGeometry(48, 128, 8)
GOAL = 1.2


def requests(n: int, kinds: int) -> list[ActivationCounts]:
    """Requests of 500 tokens, each kind with its own preferred experts."""
    rng = np.random.default_rng(0)
    shape = GEOMETRY.num_layers, GEOMETRY.num_experts
    taste = rng.gamma(0.3, size=(kinds, *shape)) + 0.05
    taste /= taste.sum(axis=2, keepdims=True)
    drawn = (rng.multinomial(4_000, taste[i % kinds]).astype(np.uint32) for i in range(n))
    return [ActivationCounts(GEOMETRY, 0, counts, 500) for counts in drawn]


class Daemon:
    """The router, with a partition in force and a full window."""

    def __init__(self, workers: int, traffic: list[ActivationCounts]) -> None:
        store = SqliteStore(None)
        size = len(traffic) * GEOMETRY.size * 2
        telemetry = Telemetry()
        self.router = Router(
            lambda: create("locality-band", {}), telemetry, Limits(window_bytes=size)
        )
        telemetry.watch(self.router)
        members = Workers(self.router, store, 0)
        for number in range(workers):
            spec = WorkerSpec(f"w{number}", capacity_sequences=256)
            members.register(MODEL, spec, WorkerState.READY, GEOMETRY, 0.0)
        partitions = Partitions(self.router, members, Records(store))
        counts = np.stack([one.counts for one in traffic[: 4 * workers]])
        made = fit_partition(MODEL, counts, GEOMETRY, n_clusters=workers, transform="sqrt")
        partitions.activate(MODEL, partitions.add(made).version)
        self.traffic = traffic
        self.number = self.refits = 0
        for _ in traffic:
            self.decide()

    def decide(self) -> float:
        """One decision and its release; returns the decision's seconds."""
        name, counts = f"r{self.number}", self.traffic[self.number % len(self.traffic)]
        self.number += 1
        call = RouteCall(MODEL, name, 0, counts=counts)
        began = time.perf_counter()
        self.router.route(call, time.monotonic())
        took = time.perf_counter() - began
        self.router.release(MODEL, name, 0, time.monotonic())
        return took

    async def decide_for(self, seconds: float) -> tuple[list[float], list[float]]:
        """Decide without pause; returns the seconds of decisions and of turns."""
        decisions, turns, began = [], [], time.perf_counter()
        until = began + seconds
        while began < until:
            decisions.append(self.decide())
            await asyncio.sleep(0)
            now = time.perf_counter()
            turns.append(now - began)
            began = now
        return decisions, turns

    async def refit_on_and_on(self, process: FittingProcess) -> None:
        while True:
            await self.refit(process)
            self.refits += 1

    def refit(self, process: FittingProcess) -> Any:
        model = self.router.model(MODEL)
        assert model.partition
        slots = tuple(model.slots_by_worker().values())
        job = partial(
            refit,
            model=MODEL,
            geometry=GEOMETRY,
            num_slots=len(slots),
            current=Bound(model.partition, slots),
            reason="traffic",
        )
        return process.run(job, model.recent.runs)


def milliseconds(seconds: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    return {"p50_ms": p50, "p99_ms": p99, "max_ms": max(seconds) * 1e3, "number": len(seconds)}


async def measure(workers: int, signatures: int, blocks: int, seconds: float) -> dict[str, Any]:
    warm_up()
    daemon, process = Daemon(workers, requests(signatures, 40)), FittingProcess()
    await daemon.decide_for(1.0)
    seen: dict[str, tuple[list[float], list[float]]] = {"without": ([], []), "during": ([], [])}
    ratios: list[list[float]] = []
    for _ in range(blocks):
        fits = asyncio.create_task(daemon.refit_on_and_on(process))
        during = await daemon.decide_for(seconds)
        fits.cancel()
        await asyncio.gather(fits, return_exceptions=True)
        await process.close()
        without = await daemon.decide_for(seconds)
        for name, block in (("during", during), ("without", without)):
            for kept, new in zip(seen[name], block, strict=True):
                kept += new
        pairs = zip(during, without, strict=True)
        ratios.append([float(np.percentile(d, 99) / np.percentile(w, 99)) for d, w in pairs])
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "workers": workers,
        "signatures": signatures,
        "refits": daemon.refits,
        "block_seconds": seconds,
        "goal": GOAL,
    }
    for place, what in enumerate(("decision", "turn")):
        with_, without = (milliseconds(seen[name][place]) for name in ("during", "without"))
        result[what] = {
            "during": with_,
            "without": without,
            "p99_ratio": with_["p99_ms"] / without["p99_ms"],
            "p99_ratio_by_block": [pair[place] for pair in ratios],
        }
    return result


def table(result: dict[str, Any]) -> Table:
    title = (
        f"Decisions during refits of {result['signatures']:,} signatures to {result['workers']}"
        f" slots, of which {result['refits']} ended"
    )
    shown = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "refit", "number", "p50 ms", "p99 ms", "max ms", "p99 ratio"):
        shown.add_column(name, justify="right" if "s" in name else "left", no_wrap=True)
    for what in ("decision", "turn"):
        for name in ("without", "during"):
            row = result[what][name]
            ratio = f"{result[what]['p99_ratio']:.2f}" if name == "during" else ""
            times = (f"{row[key]:.3f}" for key in ("p50_ms", "p99_ms", "max_ms"))
            shown.add_row(what, name, f"{row['number']:,}", *times, ratio)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--signatures", type=int, default=512)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of a block")
    parser.add_argument("--out", type=Path, default=Path("build/bench/refit.json"))
    options = parser.parse_args()
    configure_logging("console", "warning")
    result = asyncio.run(
        measure(options.workers, options.signatures, options.blocks, options.seconds)
    )
    Console().print(table(result))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
