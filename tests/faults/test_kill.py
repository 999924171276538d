"""A daemon that is killed under load, again and again: what it acknowledged is there afterwards.

`ELDR_FAULTS_ROUNDS` sets how often, 2 by default.
"""

import asyncio
import itertools
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

import grpc
import pytest
from daemon import running_daemon
from eldr.v1 import fleet_pb2, router_pb2
from wire import Client

ROUNDS = int(os.environ.get("ELDR_FAULTS_ROUNDS", "2"))
SECONDS = 1.5  # of load before each kill, or longer until LEAST
LEAST = 150  # answers before a kill
RATE = 1_000  # routes per second, if the machine is that fast
MAX_AT_ONCE = 256  # requests
WORKERS = 8
KEPT = 1_000  # bookings and releases that are asked for again after each kill
GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
REFUSED = grpc.StatusCode.FAILED_PRECONDITION


@dataclass
class Books:
    """What the clients know: each request is in one of these."""

    booked: dict[str, tuple[str, str]] = field(default_factory=dict)  # (worker, lease)
    released: dict[str, None] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)  # its last call had no answer


class Load:
    """Routes, renewals and releases at a rate, until the daemon is gone."""

    def __init__(self, client: Client, books: Books, ids, rng: random.Random) -> None:
        self.client, self.books, self.ids, self.rng = client, books, ids, rng
        self.answers = 0

    async def run(self, kill) -> None:
        began, calls = time.monotonic(), set()
        for number in itertools.count():
            while len(calls) >= MAX_AT_ONCE:
                await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            calls.add(task := asyncio.create_task(self.one()))
            task.add_done_callback(calls.discard)
            if self.answers >= LEAST and time.monotonic() > began + SECONDS:
                break
            await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
        kill()
        await asyncio.gather(*calls)

    async def one(self) -> None:
        request_id = next(self.ids)
        self.books.unsure.add(request_id)
        request = router_pb2.RouteRequest(model="m", request_id=request_id)
        try:
            placement = (await self.client.router.Route(request, timeout=20)).placement
            self.answers += 1
            self.books.booked[request_id] = placement.worker_id, placement.lease_id
            self.books.unsure.remove(request_id)
            if self.rng.random() < 0.5:
                del self.books.booked[request_id]
                self.books.unsure.add(request_id)
                await self.client.router.Release(
                    router_pb2.ReleaseRequest(model="m", request_id=request_id), timeout=20
                )
                self.books.unsure.remove(request_id)
                self.books.released[request_id] = None
        except grpc.aio.AioRpcError as error:
            if error.code() not in GONE:
                raise


async def under_load(address, books, ids, rng, kill) -> None:
    client = Client(address, asynchronous=True)
    async with client.channel:
        await Load(client, books, ids, rng).run(kill)


async def settle(address, books) -> None:
    """Ask for every request again, and have the books say what is so."""
    client = Client(address, asynchronous=True)
    gate = asyncio.Semaphore(32)

    async def ask(request_id):
        request = router_pb2.RouteRequest(model="m", request_id=request_id)
        async with gate:
            try:
                placement = (await client.router.Route(request, timeout=60)).placement
            except grpc.aio.AioRpcError as error:
                return request_id, error.code()
            return request_id, placement

    async with client.channel:
        for request_id, said in await asyncio.gather(*map(ask, books.booked)):
            assert said not in (REFUSED, *GONE), f"{request_id} was acknowledged: {said}"
            assert (said.worker_id, said.lease_id) == books.booked[request_id], request_id
            assert said.repeated
        for request_id, said in await asyncio.gather(*map(ask, books.released)):
            assert said == REFUSED, f"{request_id} was released, and is placed again"
        for request_id, said in await asyncio.gather(*map(ask, books.unsure)):
            if said == REFUSED:
                books.released[request_id] = None
            else:
                books.booked[request_id] = said.worker_id, said.lease_id
        books.unsure.clear()


async def thin_out(address, books) -> None:
    """Release all but the latest, and forget most of what was released: long runs stay short."""
    client = Client(address, asynchronous=True)
    gate = asyncio.Semaphore(32)

    async def release(request_id):
        request = router_pb2.ReleaseRequest(model="m", request_id=request_id)
        async with gate:
            result = (await client.router.Release(request, timeout=60)).result
        assert result == router_pb2.RELEASE_RESULT_RELEASED
        del books.booked[request_id]
        books.released[request_id] = None

    async with client.channel:
        await asyncio.gather(*map(release, list(books.booked)[:-KEPT]))
    for request_id in list(books.released)[:-KEPT]:
        del books.released[request_id]


@pytest.mark.timeout(120 * ROUNDS)
@pytest.mark.parametrize("durability", ["process", "power"])
def test_nothing_acknowledged_is_lost_or_doubled(tmp_path, durability):
    flags = ("--state", str(tmp_path), "--durability", durability, "--log-format", "json")
    books, ids, rng = Books(), (f'r{n} "ü\\' for n in itertools.count()), random.Random(0)
    capacity = fleet_pb2.WorkerCapacity(sequences=1 << 20)
    seen = 0
    for number in range(ROUNDS + 1):
        began = time.monotonic()
        with running_daemon(*flags) as daemon, Client(daemon.grpc) as client:
            restored = time.monotonic() - began
            if number == 0:
                for worker in range(WORKERS):
                    client.register("m", f"w{worker}", capacity=capacity)
            before = client.workers("m")
            asyncio.run(settle(daemon.grpc, books))
            held = Counter(worker for worker, _ in books.booked.values())
            for worker in client.workers("m").values():
                assert worker.booked_sequences == held[worker.worker_id]
            if number:  # what was unsure may have been booked again, the rest was there
                assert sum(w.booked_sequences for w in before.values()) <= len(books.booked)
                print(f"\n{seen} bookings, serving after {restored:.2f} s", end="")
            if number < ROUNDS:
                asyncio.run(thin_out(daemon.grpc, books))
                kill = lambda d=daemon: d.process.send_signal(signal.SIGKILL)  # noqa: E731
                asyncio.run(under_load(daemon.grpc, books, ids, rng, kill))
                seen = len(books.booked) + len(books.released)
            else:
                for request_id in books.booked:
                    assert client.release("m", request_id) == "RELEASED"
                assert client.booked("m") == 0
