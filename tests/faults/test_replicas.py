"""Three replicas on one Redis: replicas and Redis are killed, stopped and cut off under load.

`ELDR_FAULTS_ROUNDS` sets how often, 2 by default.
"""

import asyncio
import itertools
import os
import random
import signal
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import grpc
import pytest
from daemon import running_daemon
from eldr.v1 import fleet_pb2, router_pb2
from redis_server import free_port, needs_redis, running_redis, running_sentinel
from wire import Client, eventually

pytestmark = needs_redis
ROUNDS = int(os.environ.get("ELDR_FAULTS_ROUNDS", "2"))
WORKERS = 8
RATE = 300  # routes per second, over all replicas, if the machine is that fast
MAX_AT_ONCE = 128  # requests
GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
ROOM = fleet_pb2.WorkerCapacity(sequences=1 << 20)


@dataclass
class Books:
    """What the clients were told: each request is in one of these."""

    booked: dict[str, tuple[str, str]] = field(default_factory=dict)  # (worker, lease)
    released: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)  # its last call had no answer
    unsaved: int = 0
    seconds: list[float] = field(default_factory=list)


class Load:
    """Routes, and releases of half of them, each at a replica of its own choice."""

    def __init__(self, addresses, books: Books, seed: int) -> None:
        self.addresses, self.books, self.rng = addresses, books, random.Random(seed)

    async def run(self, seconds: float, prefix: str) -> None:
        self.clients = [Client(address, asynchronous=True) for address in self.addresses]
        began, calls = time.monotonic(), set()
        for number in itertools.count():
            while len(calls) >= MAX_AT_ONCE:
                await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            if time.monotonic() - began > seconds:
                break
            calls.add(task := asyncio.create_task(self.one(f"{prefix}-{number}")))
            task.add_done_callback(calls.discard)
            await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
        await asyncio.gather(*calls)
        for client in self.clients:
            await client.channel.close()

    async def one(self, request_id: str) -> None:
        books = self.books
        books.unsure.add(request_id)
        route = router_pb2.RouteRequest(model="m", request_id=request_id)
        release = router_pb2.ReleaseRequest(model="m", request_id=request_id)
        try:
            began = time.perf_counter()
            client = self.rng.choice(self.clients)
            placement = (await client.router.Route(route, timeout=20)).placement
            books.seconds.append(time.perf_counter() - began)
            books.unsaved += placement.unsaved
            books.booked[request_id] = placement.worker_id, placement.lease_id
            books.unsure.remove(request_id)
            if self.rng.random() < 0.5:
                del books.booked[request_id]
                books.unsure.add(request_id)
                client = self.rng.choice(self.clients)
                await client.router.Release(release, timeout=20)
                books.unsure.remove(request_id)
                books.released.add(request_id)
        except grpc.aio.AioRpcError as error:
            if error.code() not in GONE:
                raise


class Deployment:
    """Three replicas; each can be started again."""

    def __init__(self, stack: ExitStack, url: str, *flags: str) -> None:
        self.stack, self.url, self.flags = stack, url, flags
        self.daemons = [self.another() for _ in range(3)]
        with Client(self.daemons[0].grpc) as client:
            for number in range(WORKERS):
                client.register("m", f"w{number}", capacity=ROOM)
        self.eventually_all(lambda client: len(client.workers("m")) == WORKERS)

    def another(self):
        flags = ("--state", self.url, "--log-format", "json", *self.flags)
        return self.stack.enter_context(running_daemon(*flags))

    def eventually_all(self, is_so) -> None:
        def holds(daemon) -> bool:
            with Client(daemon.grpc) as client:
                try:
                    return is_so(client)
                except grpc.RpcError:
                    return False

        for daemon in self.daemons:
            eventually(lambda daemon=daemon: holds(daemon), 30)

    @property
    def addresses(self) -> list[str]:
        return [daemon.grpc for daemon in self.daemons]

    def in_step(self) -> None:
        for daemon in self.daemons:
            eventually(lambda daemon=daemon: "eldr_bookings_durable 1.0" in page(daemon), 30)

    def agree(self, books: Books) -> None:
        """All replicas have what the clients were told, once, and the same sums."""
        self.in_step()
        for request_id in list(books.unsure):  # their callers ask again, as callers do
            with Client(self.addresses[0]) as client:
                client.release("m", request_id)
        books.unsure.clear()
        expected = Counter(worker for worker, _ in books.booked.values())

        def sums(client) -> bool:
            found = {name: w.booked_sequences for name, w in client.workers("m").items()}
            return +Counter(found) == expected

        self.eventually_all(sums)
        rng = random.Random(0)
        for daemon in self.daemons:
            with Client(daemon.grpc) as client:
                for request_id in rng.sample(sorted(books.booked), min(200, len(books.booked))):
                    placement = client.route("m", request_id)
                    told = books.booked[request_id]
                    assert (placement.worker_id, placement.lease_id) == told, request_id
                    assert placement.repeated
                for request_id in rng.sample(sorted(books.released), min(50, len(books.released))):
                    assert client.release("m", request_id) == "ALREADY_RELEASED"


def page(daemon) -> str:
    return urllib.request.urlopen(f"http://{daemon.http}/metrics", timeout=10).read().decode()


@contextmanager
def deployment(tmp_path, *flags: str):
    with running_redis(tmp_path / "redis") as redis, ExitStack() as stack:
        yield redis, Deployment(stack, redis.url, *flags)


async def under_load(them: Deployment, books: Books, seconds: float, name: str, events) -> None:
    """Load for some seconds, with what is to happen meanwhile at its times."""
    load = asyncio.create_task(Load(them.addresses, books, len(name)).run(seconds, name))
    for after, event in events:
        await asyncio.sleep(after)
        await asyncio.to_thread(event)
    await load


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]


def test_replicas_that_are_killed_lose_nothing(tmp_path):
    with deployment(tmp_path) as (_, them):
        books = Books()
        for number in range(ROUNDS):
            victim = them.daemons[number % 3]
            kill = (1.0, victim.process.kill)
            asyncio.run(under_load(them, books, 2.0, f"kill{number}", [kill]))
            began = time.monotonic()
            them.daemons[number % 3] = them.another()
            back = time.monotonic() - began
            them.agree(books)
            print(f"killed and back after {back:.2f} s, {len(books.booked)} booked")


def test_a_replica_that_stood_still_reaps_and_removes_nothing(tmp_path):
    with deployment(tmp_path) as (_, them):
        books, stopped = Books(), them.daemons[1]
        with Client(them.addresses[0]) as client:
            life = client.register("m", "brief", capacity=ROOM, time_to_live={"seconds": 3})
            placement = client.route("m", "short", pinned_worker="brief", lease_ttl={"seconds": 4})
        books.booked["short"] = placement.worker_id, placement.lease_id
        lease = router_pb2.LeaseReference(request_id="short", lease_id=placement.lease_id)
        os.kill(stopped.process.pid, signal.SIGSTOP)
        with Client(them.addresses[2]) as client:
            for number in range(10):
                time.sleep(1)
                report = fleet_pb2.ReportLoadRequest(
                    model="m", worker_id="brief", incarnation=life, report_number=number + 1
                )
                assert client.fleet.ReportLoad(report).accepted
                renewal = router_pb2.RenewLeasesRequest(model="m", leases=[lease])
                assert not client.router.RenewLeases(renewal).unknown
        os.kill(stopped.process.pid, signal.SIGCONT)
        with Client(stopped.grpc) as client:
            assert client.route("m", "later", pinned_worker="brief").worker_id == "brief"
            assert client.route(
                "m", "short", pinned_worker="brief", lease_ttl={"seconds": 4}
            ).repeated
            client.release("m", "later")
        them.eventually_all(lambda client: client.workers("m")["brief"].booked_sequences == 1)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_without_redis_decisions_go_on_and_all_agree_afterwards(tmp_path, how):
    with deployment(tmp_path) as (redis, them):
        books, before = Books(), Books()
        asyncio.run(under_load(them, before, 2.0, "before", []))

        def go() -> None:
            if how == "killed":
                redis.kill()
            else:
                os.kill(redis.process.pid, signal.SIGSTOP)

        def come() -> None:
            if how == "killed":
                redis.start()  # and has nothing of what was there
            else:
                os.kill(redis.process.pid, signal.SIGCONT)

        asyncio.run(under_load(them, books, 6.0, "without", [(1.0, go), (3.0, come)]))
        assert books.unsaved > 30
        ratio = p99(books.seconds) / p99(before.seconds)
        print(f"{how}: p99 {p99(before.seconds) * 1e3:.1f} ms, without Redis {ratio:.2f} of it")
        books.booked |= before.booked
        books.released |= before.released
        them.agree(books)
        for daemon in them.daemons:
            assert "in step with the shared state again" in [line["event"] for line in daemon.logs]


def test_sentinels_name_another_master_and_nothing_is_lost(tmp_path):
    with (
        running_redis(tmp_path / "master") as master,
        running_redis(tmp_path / "replica", "--replicaof", f"127.0.0.1 {master.port}") as replica,
        running_sentinel(tmp_path / "sentinel", master) as sentinel,
        ExitStack() as stack,
    ):
        eventually(lambda: replica.says("INFO replication", "master_link_status:up"))
        them = Deployment(stack, f"redis+sentinel://127.0.0.1:{sentinel.port}/main")
        books = Books()
        asyncio.run(under_load(them, books, 8.0, "failover", [(1.0, master.kill)]))
        them.agree(books)
        assert replica.says("INFO replication", "role:master")
        assert replica.says("DBSIZE", ":")


def test_a_cluster_keeps_the_state_together(tmp_path):
    enabled, buses = ("--cluster-enabled", "yes", "--cluster-port"), (free_port(), free_port())
    with (
        running_redis(tmp_path / "first", *enabled, str(buses[0])) as first,
        running_redis(tmp_path / "second", *enabled, str(buses[1])) as second,
        ExitStack() as stack,
    ):
        assert first.ask("CLUSTER ADDSLOTSRANGE 0 8191") == b"+OK"
        assert second.ask("CLUSTER ADDSLOTSRANGE 8192 16383") == b"+OK"
        assert first.ask(f"CLUSTER MEET 127.0.0.1 {second.port} {buses[1]}") == b"+OK"
        for server in (first, second):
            eventually(lambda server=server: server.says("CLUSTER INFO", "cluster_state:ok"))
        url = f"redis+cluster://127.0.0.1:{first.port},127.0.0.1:{second.port}"
        them = Deployment(stack, url, "--state-timeout", "10")  # however busy the machine is
        books = Books()
        asyncio.run(under_load(them, books, 2.0, "cluster", []))
        assert not books.unsaved
        them.agree(books)
