"""How a flood for one model affects callers of another, and how soon the flood is refused.

A real `eldr-server` with two models, each with 8 places. Four callers of the calm model place a
request, decode for 20 ms and release it. Meanwhile, in another process, 80 callers want the other
model's places, ten times as many as there are, and decode for 50 ms. If refused, they retry after
the time that the refusal gives. Three floods: refused at once; waiting for a place (`max_wait`);
and 640 waiting callers with `--max-calls-in-all` at 64, so that calls themselves are refused. Calm
callers without and with a flood take turns.

Prints a table and writes build/bench/overload.json.
"""

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc
import numpy as np
import uvloop
from eldr.v1 import fleet_pb2, fleet_pb2_grpc, router_pb2, router_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from benchmarks.speed import paired
from benchmarks.speed.rpc import daemon

PLACES = 8
CALM, CALM_SECONDS = 4, 0.02
FLOOD_SECONDS = 0.05
REFUSAL_SECONDS = 0.005
SETTLE_SECONDS = 1.0


class Flood(NamedTuple):
    """Number of callers, how long they wait for a place, and the daemon's flags."""

    callers: int
    max_wait: float
    flags: tuple[str, ...] = ()


FLOODS = {
    "refused at once": Flood(10 * PLACES, 0.0),
    "waiting for a place": Flood(10 * PLACES, 10.0),
    "too many calls": Flood(80 * PLACES, 10.0, ("--max-calls-in-all=64",)),
}


class Calls(NamedTuple):
    """Seconds taken by placements and refusals."""

    placed: list[float]
    refused: list[float]


async def drive(
    target: str, model: str, callers: int, max_wait: float, decode: float, seconds: float
) -> Calls:
    """Have callers place, decode and release requests for some time."""
    seen = Calls([], [])
    numbers = itertools.count(time.time_ns())
    end = time.perf_counter() + seconds
    wait = Duration()
    wait.FromNanoseconds(round(max_wait * 1e9))
    async with grpc.aio.insecure_channel(target) as channel:
        router = router_pb2_grpc.RouterServiceStub(channel)

        async def call() -> None:
            while (began := time.perf_counter()) < end:
                request_id = f"r{next(numbers)}"
                request = router_pb2.RouteRequest(model=model, request_id=request_id)
                if max_wait:
                    request.max_wait.CopyFrom(wait)
                try:
                    await router.Route(request)
                except grpc.aio.AioRpcError as error:
                    seen.refused.append(time.perf_counter() - began)
                    await asyncio.sleep(min(retry_after(error), end - time.perf_counter()))
                    continue
                seen.placed.append(time.perf_counter() - began)
                await asyncio.sleep(decode)
                await router.Release(router_pb2.ReleaseRequest(model=model, request_id=request_id))

        await asyncio.gather(*(call() for _ in range(callers)))
    return seen


def retry_after(error: grpc.aio.AioRpcError) -> float:
    """A refusal's details; any other failure ends the run."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or details is None:
        raise error
    retry = RetryInfo()
    if not any(detail.Unpack(retry) for detail in Status.FromString(details).details):
        raise error
    return float(retry.retry_delay.ToTimedelta().total_seconds())


@contextmanager
def flooding(target: str, name: str, seconds: float) -> Iterator[list[Calls]]:
    """Run a flood in another process; the times of its calls are in the list afterwards."""
    command = [sys.executable, "-m", "benchmarks.speed.overload", "--flood", name, target]
    whole = ["--seconds", str(seconds)]
    seen: list[Calls] = []
    with subprocess.Popen([*command, *whole], stdout=subprocess.PIPE, text=True) as process:
        time.sleep(SETTLE_SECONDS)
        yield seen
        said, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"the flood failed: {process.returncode}")
        seen.append(Calls(*json.loads(said)))


def measure(name: str, flood: Flood, turns: int, seconds: float) -> dict[str, Any]:
    with daemon("--log-level=warning", *flood.flags) as server:
        with grpc.insecure_channel(server.address) as channel:
            fleet = fleet_pb2_grpc.FleetServiceStub(channel)
            for model in ("calm", "flood"):
                worker = fleet_pb2.RegisterWorkerRequest(model=model, worker_id="w", url="http://w")
                worker.capacity.sequences = PLACES
                fleet.RegisterWorker(worker)

        def calm() -> list[float]:
            run = drive(server.address, "calm", CALM, 0.0, CALM_SECONDS, seconds)
            return uvloop.run(run).placed

        def flooded() -> list[float]:
            with flooding(server.address, name, seconds + 2 * SETTLE_SECONDS) as seen:
                took = calm()
            floods.extend(seen)
            return took

        floods: list[Calls] = []
        calm()
        alone: list[list[float]] = []
        beside: list[list[float]] = []
        for turn in range(turns):
            for kind, run in ((alone, calm), (beside, flooded))[:: -1 if turn % 2 else 1]:
                kind.append(run())

    def quantile(of: list[list[float]], q: float) -> list[float]:
        return [float(np.percentile(each, q)) for each in of]

    refused = [r for seen in floods for r in seen.refused]
    ratios = {
        f"{name}: p{q} of the calm, s": paired.ratio(
            quantile(beside, q), quantile(alone, q), less=True
        )
        for q in (50, 99)
    }
    return {
        "ratios": ratios,
        "placed": sum(len(seen.placed) for seen in floods),
        "refused": len(refused),
        "refusal_p50": float(np.percentile(refused, 50)) if refused else None,
        "refusal_p99": float(np.percentile(refused, 99)) if refused else None,
        "refused_in_time": float(np.mean(np.array(refused) < REFUSAL_SECONDS)) if refused else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flood", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of each measurement")
    paired.add_options(parser, "overload")
    options = parser.parse_args()
    if options.flood:
        name, target = options.flood
        flood = FLOODS[name]
        run = drive(target, "flood", flood.callers, flood.max_wait, FLOOD_SECONDS, options.seconds)
        print(json.dumps(uvloop.run(run)))
        return
    ratios, floods = {}, {}
    for name, flood in FLOODS.items():
        seen = measure(name, flood, options.turns, options.seconds)
        ratios |= seen.pop("ratios")
        floods[name] = seen
        print(f"{name}: {seen['placed']} placed, {seen['refused']} refused", end="")
        if seen["refused"]:
            p50, p99, share = (seen[k] for k in ("refusal_p50", "refusal_p99", "refused_in_time"))
            print(
                f" after {1e3 * p50:.1f} ms (p99 {1e3 * p99:.1f}), {share:.0%} within 5 ms", end=""
            )
        print()
    paired.finish("A flood beside calm callers", {"ratios": ratios, "floods": floods}, {}, options)


if __name__ == "__main__":
    main()
