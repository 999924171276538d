"""Load for a while on the real daemon, while workers, policies and partitions change beside it.

`ELDR_FAULTS_SECONDS` says for how long: 15 by default, an hour with `make soak SECONDS=3600`.
Phases without changes and with them take turns, so that one run shows what changes cost.
"""

import asyncio
import itertools
import os
import random
import time
from collections import Counter
from pathlib import Path
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from daemon import running_daemon
from eldr.v1 import fleet_pb2, partition_pb2, policy_pb2, router_pb2
from wire import GEOMETRY, Client, counts, drawn

SECONDS = float(os.environ.get("ELDR_FAULTS_SECONDS", "15"))
PHASE = max(1.5, min(30.0, SECONDS / 10))
WARM = min(900.0, SECONDS / 3)  # ends are remembered for ten minutes
STALL = 5.0  # seconds within which a call is answered, on any machine
HOLD = 0.2  # seconds that a request runs
POLICIES = ("locality-band", "marginal-cost", "join-shortest-queue", "power-of-two-choices")
BODIES = [counts(drawn(kind, seed)) for kind in range(4) for seed in range(16)]
PAUSE = "eldr_loop_pause_seconds_bucket"


class Load:
    """Routes and releases; `latencies` has (when, seconds) of each Route."""

    def __init__(self, client: Client) -> None:
        self.client, self.chance, self.ids = client, random.Random(1), itertools.count()
        self.latencies: list[tuple[float, float]] = []
        self.refused: Counter[str] = Counter()

    async def one(self, hold: float = HOLD) -> None:
        request = router_pb2.RouteRequest(
            model="m", request_id=f"r{next(self.ids)}", counts=self.chance.choice(BODIES),
            prompt_tokens=30, expected_output_tokens=9,
        )  # fmt: skip
        began = time.monotonic()
        try:
            await self.client.router.Route(request, timeout=STALL)
            self.latencies.append((began, time.monotonic() - began))
            await asyncio.sleep(hold)
            await self.client.router.Release(
                router_pb2.ReleaseRequest(
                    model="m", request_id=request.request_id, output_tokens=9
                ),
                timeout=STALL,
            )
        except grpc.aio.AioRpcError as error:
            self.refused[error.code().name] += 1

    async def top_rate(self, seconds: float) -> float:
        """Routes per second when 32 callers ask one after the other."""
        end, before = time.monotonic() + seconds, len(self.latencies)

        async def caller():
            while time.monotonic() < end:
                await self.one(hold=0.0)

        await asyncio.gather(*(caller() for _ in range(32)))
        return (len(self.latencies) - before) / seconds

    async def run(self, rate: float, seconds: float) -> None:
        began, calls = time.monotonic(), set()
        for number in itertools.count():
            if (wait := began + number / rate - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if time.monotonic() > began + seconds:
                break
            calls.add(task := asyncio.create_task(self.one()))
            task.add_done_callback(calls.discard)
        await asyncio.gather(*calls)


class Changes:
    """Workers join, drain and leave, policies are switched, partitions fitted and activated."""

    def __init__(self, client: Client) -> None:
        self.client, self.chance, self.made = client, random.Random(2), Counter()

    async def make(self, until: float) -> None:
        for number in itertools.count():
            if time.monotonic() >= until:
                return
            name, change = (
                ("worker", self.worker), ("policy", self.policy),
                ("worker", self.worker), ("partition", self.partition),
            )[number % 4]  # fmt: skip
            await change(number)
            self.made[name] += 1
            await asyncio.sleep(0.1)

    async def worker(self, number: int) -> None:
        name = f"flaps{number % 5}"
        capacity = fleet_pb2.WorkerCapacity(sequences=100_000)
        await self.client.fleet.RegisterWorker(
            fleet_pb2.RegisterWorkerRequest(model="m", worker_id=name, capacity=capacity)
        )
        await self.client.fleet.DrainWorker(fleet_pb2.DrainWorkerRequest(model="m", worker_id=name))
        await asyncio.sleep(2 * HOLD)
        await self.client.fleet.RemoveWorker(
            fleet_pb2.RemoveWorkerRequest(model="m", worker_id=name)
        )

    async def policy(self, number: int) -> None:
        name = POLICIES[number // 4 % len(POLICIES)]
        await self.client.policy.SetPolicy(policy_pb2.SetPolicyRequest(model="m", name=name))

    async def partition(self, number: int) -> None:
        request = partition_pb2.FitPartitionRequest(
            model="m", num_slots=4, n_init=1, max_iter=5, activate=True, counts=BODIES[:24]
        )
        if number % 8 == 3:
            await self.client.partition.FitPartition(request)
        else:  # one of the last, which the daemon keeps
            await self.client.partition.ActivatePartition(
                partition_pb2.ActivatePartitionRequest(model="m", version=1 + number % 2)
            )


class Daemon:
    """What the daemon holds, seen from outside."""

    def __init__(self, daemon) -> None:
        self._pid, self._http = daemon.process.pid, daemon.http
        self._pauses: dict[float, float] = {}

    def memory(self) -> float:
        pages = int(Path(f"/proc/{self._pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self._pid}/fd").iterdir()))

    def longest_pause(self) -> float:
        """The bucket of the longest since the last time, in seconds."""
        with urlopen(f"http://{self._http}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        now = {
            float(line.split('"')[1]): float(line.split()[-1])
            for line in lines
            if line.startswith(PAUSE)
        }
        new = {bound: count - self._pauses.get(bound, 0.0) for bound, count in now.items()}
        self._pauses = now
        return next(bound for bound, count in sorted(new.items()) if count == new[float("inf")])


def figures(latencies: list[tuple[float, float]]) -> str:
    p50, p99, longest = np.quantile([s for _, s in latencies], (0.5, 0.99, 1.0)) * 1e3
    return f"{len(latencies):9,} {p50:7.1f} {p99:7.1f} {longest:8.1f}"


async def soak(running) -> tuple[Load, Changes, list]:
    client = Client(running.grpc, asynchronous=True)
    seen, rows = Daemon(running), []
    async with client.channel:
        load, changes = Load(client), Changes(client)
        await load.top_rate(1.0)
        rate = await load.top_rate(2.0) / 2
        print(f"\nhalf the top rate: {rate:,.0f} routes/s; times in ms, memory in MiB")
        print("       s changes      n     p50     p99  longest   pause  memory  files")
        seen.longest_pause()
        began = time.monotonic()
        for number in itertools.count():
            if time.monotonic() > began + SECONDS:
                return load, changes, rows
            first, changing = len(load.latencies), number % 2 == 1
            tasks = [load.run(rate, PHASE)]
            if changing:
                tasks.append(changes.make(time.monotonic() + PHASE))
            await asyncio.gather(*tasks)
            at = time.monotonic() - began
            row = (at, changing, load.latencies[first:], seen.longest_pause(), seen.memory())
            rows.append((*row, seen.descriptors()))
            print(
                f"{at:8.0f} {'yes' if changing else 'no':7}{figures(row[2])} "
                f"{'<' if row[3] < 1 else '>'}{row[3] * 1e3:6.0f} {row[4]:7.1f} {rows[-1][5]:6}"
            )


@pytest.mark.timeout(240 + 2 * SECONDS)
def test_soak(tmp_path):
    flags = ("--state", str(tmp_path), "--refit", "off")
    with running_daemon(*flags) as running, Client(running.grpc) as client:
        for worker in range(8):
            capacity = fleet_pb2.WorkerCapacity(sequences=100_000)
            client.register("m", f"w{worker}", capacity=capacity, geometry=GEOMETRY)
        for _ in range(2):
            client.fit("m", kinds=4)
        load, changes, rows = asyncio.run(soak(running))
        for changing in (False, True):
            phases = [[seconds for _, seconds in row[2]] for row in rows if row[1] == changing]
            p99 = np.median([np.quantile(phase, 0.99) for phase in phases]) * 1e3
            print(
                f"{'with' if changing else 'without'} changes: p99 {p99:.1f} ms, median of phases"
            )
        print(f"changes: {dict(changes.made)}; refused: {dict(load.refused)}")
        assert load.refused == {}  # nor delayed beyond `STALL`, which would be DEADLINE_EXCEEDED
        assert client.booked("m") == 0
        warm = [row for row in rows if row[0] > WARM]
        assert warm[-1][5] <= warm[0][5] + 8  # descriptors
        growth = warm[-1][4] / warm[0][4] - 1
        print(f"memory {growth:+.1%} since {warm[0][0]:.0f} s")
        if SECONDS >= 3 * WARM > 2_000:  # else what is remembered has not come to its end
            assert growth < 0.01
