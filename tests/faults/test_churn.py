"""Workers come and go all the time, under load: nothing stalls, and no request is refused.

248 joins and 149 removals, as in a public report of a router that hung. They take 12 minutes by
`make soak` (ELDR_FAULTS_CHURN_SECONDS), and 20 seconds else. A removal is a goodbye, an
operator's, a drain, or the silence of a host that is gone.
"""

import asyncio
import os
import random
import re
import urllib.request

import grpc
import pytest
from daemon import running_daemon
from elastic import Load, Worker, quantile
from eldr.v1 import fleet_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from wire import Client, eventually

JOINS, REMOVALS = 248, 149
SECONDS = float(os.environ.get("ELDR_FAULTS_CHURN_SECONDS", "20"))
RATE = 150.0 if SECONDS > 60 else 50.0  # a hundred workers report besides
FLAGS = ("--report-interval", "0.5", "--report-limit", "1.5", "--suspect-after", "1.5")
HANG_SECONDS = 10.0


class Churn:
    """Joins and removals in a random order, evenly over the time; eight workers at the least."""

    def __init__(self, address: str) -> None:
        self.client = Client(address, asynchronous=True)
        self.workers: dict[str, Worker] = {}
        self.all: list[Worker] = []
        self.rng = random.Random(0)
        self.load = Load(self.client, "m", self.workers, RATE, decode_seconds=0.3)
        self.ways: dict[str, int] = {}
        self.going: set[str] = set()

    async def run(self) -> None:
        for number in range(8):
            await self.join(f"first-{number}")
        loading = asyncio.create_task(self.load.run())
        events = ["join"] * JOINS + ["remove"] * REMOVALS
        self.rng.shuffle(events)
        removals: list[asyncio.Task[None]] = []
        for number, event in enumerate(events):
            if event == "join":
                await self.join(f"w{number}")
            else:
                removals.append(asyncio.create_task(self.remove()))
            await asyncio.sleep(SECONDS / len(events))
        await asyncio.gather(*removals)
        self.load.stop.set()
        await loading
        await asyncio.gather(*(worker.leave() for worker in self.workers.values()))
        await self.client.channel.close()

    async def join(self, worker_id: str) -> None:
        capacity = pb.WorkerCapacity(sequences=64)
        # A busy machine has time for one of twenty reports.
        worker = Worker(self.client, "m", worker_id, ttl=10.0, capacity=capacity)
        self.workers[worker_id] = worker
        self.all.append(worker)
        await worker.start()

    async def remove(self) -> None:
        worker = self.workers[self.rng.choice(sorted(self.workers.keys() - self.going))]
        self.going.add(worker.worker_id)
        way = self.rng.choice(["goodbye", "operator", "drain", "silence"])
        self.ways[way] = self.ways.get(way, 0) + 1
        name = {"model": "m", "worker_id": worker.worker_id}
        if way == "drain":
            deadline = Duration(seconds=5)
            request = pb.DrainWorkerRequest(**name, deadline=deadline)
            await self.client.fleet.DrainWorker(request, timeout=20)
            await asyncio.wait_for(worker.drained.wait(), 60)
        del self.workers[worker.worker_id]
        if way == "silence":
            worker.vanish()
        elif way == "operator":
            worker.vanish()
            request = pb.RemoveWorkerRequest(**name)
            try:
                await self.client.fleet.RemoveWorker(request, timeout=20)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:  # it expired: a busy machine
                    raise
        else:
            await worker.leave()


def longest_in_daemon(daemon) -> float:
    """The bucket of seconds that 99% of all Routes were answered within, by its own clock."""
    text = urllib.request.urlopen(f"http://{daemon.http}/metrics", timeout=10).read().decode()
    name = 'eldr_rpc_seconds_bucket{le="([^"]+)",method="eldr.v1.RouterService/Route"} (.+)'
    buckets = [(float(le), float(count)) for le, count in re.findall(name, text)]
    return next(le for le, count in buckets if count >= 0.99 * buckets[-1][1])


@pytest.mark.timeout(SECONDS + 180)
def test_workers_come_and_go_under_load_and_no_request_is_refused():
    with running_daemon(*FLAGS, "--log-format", "json") as daemon, Client(daemon.grpc) as client:

        async def run():
            churn = Churn(daemon.grpc)
            await churn.run()
            return churn

        churn = asyncio.run(run())
        seen = churn.load.seen
        print(
            f"\n{JOINS} joins, {sum(churn.ways.values())} removals ({churn.ways}) in {SECONDS:g} s:"
            f" {seen.placed} placements, {seen.moved} of them again, {len(seen.refused)} refused;"
            f" p50 {1e3 * quantile(seen.route_seconds, 0.5):.1f} ms,"
            f" p99 {1e3 * quantile(seen.route_seconds, 0.99):.1f} ms,"
            f" longest {1e3 * max(seen.route_seconds):.0f} ms, in the daemon at most"
            f" {1e3 * longest_in_daemon(daemon):g} ms for 99%"
        )
        assert max(seen.route_seconds) < HANG_SECONDS
        assert seen.refused == []
        assert seen.placed > RATE * SECONDS / 5  # a busy machine may be slower than the rate
        assert seen.moved > 0
        assert sum(churn.ways.values()) == REMOVALS
        assert len(churn.ways) == 4
        eventually(lambda: not client.workers())
        watched = [line for line in daemon.logs if line["event"] == "worker"]
        lives = JOINS + 8 + sum(worker.forgotten for worker in churn.all)
        assert sum(line["state"] == "GONE" for line in watched) == lives
        assert not [line for line in daemon.logs if line["level"] == "error"]
