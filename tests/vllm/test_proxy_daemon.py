"""The proxy with the real daemon: placements, bookings, refusals."""

import asyncio
import base64
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from daemon import Daemon, running_daemon
from eldr.v1.activation_pb2 import ModelGeometry
from eldr.v1.fleet_pb2 import (
    ListWorkersRequest,
    RegisterWorkerRequest,
    RemoveWorkerRequest,
    WorkerCapacity,
    WorkerRole,
    WorkerState,
)
from eldr.v1.fleet_pb2_grpc import FleetServiceStub
from eldr.v1.partition_pb2 import FitPartitionRequest
from eldr.v1.partition_pb2_grpc import PartitionServiceStub
from eldr_client import Counts, WorkerSession
from eldr_client.aio import RouterClient
from eldr_vllm.proxy.bookings import Booking, Bookings
from eldr_vllm.proxy.fleet import Engine
from scripted_engine import MODEL, Rig, eventually, running_rig

TOP_K, TOKENS = 2, 8


def register(
    daemon: Daemon, rig: Rig, model: str = MODEL, capacity: int = 0, labels: dict | None = None
) -> None:
    with grpc.insecure_channel(daemon.grpc) as channel:
        for role, engines in (("PREFILL", rig.prefill), ("DECODE", rig.decode)):
            for number, engine in enumerate(engines):
                FleetServiceStub(channel).RegisterWorker(
                    RegisterWorkerRequest(
                        worker_id=f"{role}-{number}",
                        model=model,
                        url=engine.url,
                        role=WorkerRole.Value(f"WORKER_ROLE_{role}"),
                        capacity=WorkerCapacity(sequences=capacity),
                        labels=labels,
                        geometry=ModelGeometry(num_layers=2, num_experts=8, top_k=TOP_K),
                    )
                )


def join_again(daemon: Daemon, worker_ids: Iterable[str]) -> None:
    """As if each had registered in the life it has, and not reported yet."""
    with grpc.insecure_channel(daemon.grpc) as channel:
        stub = FleetServiceStub(channel)
        workers = {w.worker_id: w for w in stub.ListWorkers(ListWorkersRequest()).workers}
        for worker in map(workers.__getitem__, worker_ids):
            stub.RegisterWorker(
                RegisterWorkerRequest(
                    worker_id=worker.worker_id,
                    model=worker.model,
                    url=worker.url,
                    role=worker.role,
                    incarnation=worker.incarnation,
                    state=WorkerState.WORKER_STATE_JOINING,
                )
            )


def booked(daemon: Daemon) -> int:
    with grpc.insecure_channel(daemon.grpc) as channel:
        workers = FleetServiceStub(channel).ListWorkers(ListWorkersRequest()).workers
    return sum(worker.booked_sequences for worker in workers)


def unregister(daemon: Daemon, rig: Rig, model: str = MODEL) -> None:
    with grpc.insecure_channel(daemon.grpc) as channel:
        for role, engines in (("PREFILL", rig.prefill), ("DECODE", rig.decode)):
            for number in range(len(engines)):
                FleetServiceStub(channel).RemoveWorker(
                    RemoveWorkerRequest(model=model, worker_id=f"{role}-{number}")
                )


@asynccontextmanager
async def routed_rig(daemon: Daemon, **settings) -> AsyncIterator[Rig]:
    """A rig whose engines are registered; the proxy learns them there, unless it is `static`."""
    capacity, labels = settings.pop("capacity", 0), settings.pop("labels", None)
    async with running_rig(**{"static": False, "router": daemon.grpc, **settings}) as rig:
        register(daemon, rig, capacity=capacity, labels=labels)
        wanted = {"prefill": len(rig.prefill), "decode": len(rig.decode)}
        deadline = time.monotonic() + 15
        while (await health(rig))["workers"] != wanted:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        yield rig
    if daemon.process.poll() is None:
        unregister(daemon, rig)


async def health(rig: Rig) -> dict:
    async with rig.session.get(rig.url + "/health") as answer:
        return await answer.json()


def counts_of(half: int) -> Counts:
    array = np.zeros((2, 8), np.int64)
    array[:, half * 4 : half * 4 + 4] = TOKENS * TOP_K // 4
    return Counts(array, TOP_K)


def fit(daemon: Daemon) -> None:
    """A partition with a slot for either half of the experts, in force at once."""
    with grpc.insecure_channel(daemon.grpc) as channel:
        PartitionServiceStub(channel).FitPartition(
            FitPartitionRequest(
                model=MODEL,
                counts=[counts_of(i % 2).to_proto() for i in range(8)],
                num_slots=2,
                transform="counts",
                activate=True,
            )
        )


async def test_placed_by_load_and_released(shared_daemon):
    async with routed_rig(shared_daemon) as rig:
        assert (await health(rig))["router"] == "up"
        for engine in rig.decode:
            engine.gate = asyncio.Event()
        asking = [asyncio.create_task(rig.post()) for _ in range(6)]
        await eventually(lambda: sum(len(e.decodes) for e in rig.decode) == 6)
        assert [len(engine.decodes) for engine in rig.decode] == [3, 3]
        assert booked(shared_daemon) == 6
        leases = {e["kv_transfer_params"]["eldr"]["lease_id"] for e in rig.decode[0].decodes}
        assert len(leases) == 3
        assert "" not in leases
        for engine in rig.decode:
            engine.gate.set()
        assert [answer.status for answer, _ in await asyncio.gather(*asking)] == [200] * 6
        await eventually(lambda: booked(shared_daemon) == 0)


async def test_placed_by_the_signature_in_the_answer():
    with running_daemon() as daemon:
        async with routed_rig(daemon) as rig:
            fit(daemon)
            homes = []
            for half in (0, 1, 0, 1, 0, 1):
                counts = counts_of(half).to_proto().SerializeToString()
                rig.prefill[0].eldr = {"counts": base64.b64encode(counts).decode()}
                before = [len(engine.decodes) for engine in rig.decode]
                await rig.post()
                after = [len(engine.decodes) for engine in rig.decode]
                homes.append([a - b for a, b in zip(after, before, strict=True)].index(1))
            reason = 'eldr_proxy_placements_total{reason="LOCALITY_BAND"}'
            assert await rig.metric(reason) == 6
            # Two workers are always a band, so load decides; what counts is that it was asked.
            assert set(homes) <= {0, 1}
            # Counts that are none, or of another model, cost the locality and not the request.
            for said in ("!", base64.b64encode(b"\xff\xff").decode(), 7):
                rig.prefill[0].eldr = {"counts": said}
                assert (await rig.post())[0].status == 200
            wrong = Counts(np.full((3, 4), 4), 1).to_proto().SerializeToString()
            rig.prefill[0].eldr = {"counts": base64.b64encode(wrong).decode()}
            assert (await rig.post())[0].status == 200
            await eventually(lambda: booked(daemon) == 0)


def placement(worker_id: str, url: str) -> dict:
    """As the shim in the prefill engine puts it into the answer."""
    said = {"worker_id": worker_id, "url": url, "dp_rank": 0, "reason": "POLICY", "attempt": 0}
    return {**said, "lease_id": "theirs"}


@pytest.mark.parametrize(
    ("tokens", "seconds"),
    [(10**30, 1.0), (-1, 1.0), ("5", 1.0), (5, float("inf")), (5, float("nan")), (5, -1.0)],
)
async def test_a_release_is_said_whatever_was_written_into_it(shared_daemon, tokens, seconds):
    async with (
        routed_rig(shared_daemon, static=True) as rig,
        RouterClient(shared_daemon.grpc, timeout=5.0) as client,
    ):
        name = f"{tokens} tokens in {seconds} s"
        placement = await client.route(MODEL, name)
        engine = Engine("", rig.decode[0].url)
        booking = Booking(
            engine=engine, model=MODEL, request_id=name, attempt=0, lease_id=placement.lease_id
        )
        bookings = Bookings(client)
        with bookings.hold(booking):
            booking.output_tokens, booking.decode_duration = tokens, seconds
            assert booked(shared_daemon) == 1
        await bookings.close()
        assert booked(shared_daemon) == 0


async def test_a_placement_that_the_prefill_engine_holds(shared_daemon):
    async with routed_rig(shared_daemon) as rig:
        rig.prefill[0].eldr = {"placement": placement("DECODE-1", rig.decode[1].url)}
        for _ in range(3):
            await rig.post()
        assert [len(engine.decodes) for engine in rig.decode] == [0, 3]
        assert rig.decode[1].decodes[0]["kv_transfer_params"]["eldr"]["lease_id"] == "theirs"
        rig.prefill[0].eldr = {"placement": {"worker_id": "?"}}
        assert (await rig.post())[0].status == 200


async def test_a_failed_worker_is_replaced_in_the_booking(shared_daemon):
    async with routed_rig(shared_daemon) as rig:
        rig.decode[0].fault = 500
        rig.decode[1].gate = asyncio.Event()
        asking = asyncio.create_task(rig.post())
        await eventually(lambda: rig.decode[1].running == 1)
        with grpc.insecure_channel(shared_daemon.grpc) as channel:
            workers = FleetServiceStub(channel).ListWorkers(ListWorkersRequest(model=MODEL))
        loads = {w.worker_id: w.booked_sequences for w in workers.workers}
        assert (loads["DECODE-0"], loads["DECODE-1"]) == (0, 1)
        rig.decode[1].gate.set()
        assert (await asking)[0].status == 200
        await eventually(lambda: booked(shared_daemon) == 0 and not rig.pinned)


@pytest.mark.parametrize("static", [False, True])
async def test_a_failed_worker_is_not_accepted_of_the_daemon(shared_daemon, static):
    """It is dead, and the daemon does not know that yet; the prefill engine does not either."""
    capacity = 4
    async with routed_rig(shared_daemon, static=static, decodes=3, capacity=capacity) as rig:
        dead, *others = rig.decode
        await rig.stop(dead)
        rig.prefill[0].eldr = {"placement": placement("DECODE-0", dead.url)}
        for _ in range(6):
            assert (await rig.post())[0].status == 200
        assert await rig.metric('eldr_proxy_retries_total{role="decode"}') == 1
        assert await rig.metric('eldr_proxy_placements_total{reason="CLIENT_FALLBACK"}') == 0
        await eventually(lambda: booked(shared_daemon) == 0)
        # The others have no room, so it is asked all the same, should it be back.
        for engine in others:
            engine.gate = asyncio.Event()
        rig.prefill[0].eldr = None
        asking = [asyncio.create_task(rig.post()) for _ in range(2 * capacity)]
        await eventually(lambda: booked(shared_daemon) == 2 * capacity)
        assert (await rig.post())[0].status == 429
        assert await rig.metric('eldr_proxy_retries_total{role="decode"}') == 2
        for engine in others:
            engine.gate.set()
        await asyncio.gather(*asking)


async def test_a_worker_that_is_killed_is_forgotten(shared_daemon):
    """Within its time to live, by the daemon and by the proxy that follows it."""
    async with routed_rig(shared_daemon) as rig:
        code = (
            "import time; from eldr_client import WorkerSession;"
            f"WorkerSession('mortal', {MODEL!r}, 'http://127.0.0.1:9', time_to_live=1,"
            f" target={shared_daemon.grpc!r}); time.sleep(60)"
        )
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen([sys.executable, "-c", code], env=environ)
        try:
            while (await health(rig))["workers"]["decode"] != 3:
                assert process.poll() is None
                await asyncio.sleep(0.02)
        finally:
            process.kill()
            process.wait()
        killed = time.monotonic()
        while (await health(rig))["workers"]["decode"] != 2:
            assert time.monotonic() < killed + 3
            await asyncio.sleep(0.02)


async def test_engines_that_join_again_in_the_same_life_serve_on(shared_daemon):
    """So they do after a daemon that lost its state; only a ready one is preferred to them."""
    async with routed_rig(shared_daemon, prefills=2) as rig:
        join_again(shared_daemon, ["PREFILL-0", "DECODE-0", "DECODE-1"])
        with WorkerSession("w", MODEL, "http://127.0.0.1:9", target=shared_daemon.grpc):
            while (await health(rig))["workers"]["decode"] != 3:  # which it sees after them
                await asyncio.sleep(0.02)
        while (await health(rig))["workers"]["decode"] != 2:
            await asyncio.sleep(0.02)
        for _ in range(4):
            assert (await rig.post())[0].status == 200
        assert [len(engine.bodies) for engine in rig.prefill] == [0, 4]
        assert sum(len(engine.decodes) for engine in rig.decode) == 4


async def test_everyone_is_full(shared_daemon):
    async with routed_rig(shared_daemon, capacity=1) as rig:
        for engine in rig.decode:
            engine.gate = asyncio.Event()
        asking = [asyncio.create_task(rig.post()) for _ in range(2)]
        await eventually(lambda: booked(shared_daemon) == 2)
        answer, body = await rig.post()
        assert (answer.status, body["error"]["type"]) == (429, "rate_limit_error")
        assert int(answer.headers["Retry-After"]) >= 1
        for engine in rig.decode:
            engine.gate.set()
        await asyncio.gather(*asking)
        await eventually(lambda: not rig.pinned)


async def test_a_request_waits_for_a_place(shared_daemon):
    async with routed_rig(shared_daemon, capacity=1, max_wait=30.0) as rig:
        for engine in rig.decode:
            engine.gate = asyncio.Event()
        asking = [asyncio.create_task(rig.post()) for _ in range(3)]
        await eventually(lambda: booked(shared_daemon) == 2)
        await asyncio.sleep(0.2)
        assert not any(task.done() for task in asking)
        for engine in rig.decode:
            engine.gate.set()
        assert [answer.status for answer, _ in await asyncio.gather(*asking)] == [200] * 3
        await eventually(lambda: not rig.pinned)


async def test_nobody_is_there(shared_daemon):
    async with running_rig(static=False, router=shared_daemon.grpc) as rig:
        answer, body = await rig.post(model="unheard of")
        assert (answer.status, body["error"]["code"]) == (503, 503)
        async with rig.session.get(rig.url + "/v1/models") as answer:
            assert answer.status == 503
        async with rig.session.get(rig.url + "/health") as answer:
            assert answer.status == 503


async def test_what_the_configuration_does_not_name_is_never_contacted(shared_daemon):
    """The daemon knows a worker that this proxy was not told of."""
    async with running_rig(decodes=3, static=False) as strangers:
        register(shared_daemon, strangers, model="guarded")
        async with running_rig(
            decodes=1, router=shared_daemon.grpc, model="guarded", attempts=1
        ) as rig:
            for _ in range(6):
                assert (await rig.post())[0].status == 200
            assert len(rig.decode[0].decodes) == 6
            assert not any(engine.bodies for engine in strangers.decode)
        unregister(shared_daemon, strangers, model="guarded")
        await eventually(lambda: booked(shared_daemon) == 0)


async def test_ranks_behind_one_url(shared_daemon):
    async with running_rig(
        decodes=1, static=False, router=shared_daemon.grpc, model="ranked"
    ) as rig:
        with grpc.insecure_channel(shared_daemon.grpc) as channel:
            for role, engine in (("PREFILL", rig.prefill[0]), ("DECODE", rig.decode[0])):
                for rank in range(2):
                    FleetServiceStub(channel).RegisterWorker(
                        RegisterWorkerRequest(
                            worker_id=f"{role}-{rank}",
                            model="ranked",
                            url=engine.url,
                            dp_rank=rank,
                            role=WorkerRole.Value(f"WORKER_ROLE_{role}"),
                        )
                    )
        await asyncio.sleep(0.3)
        rig.decode[0].pause = 0.05
        await asyncio.gather(*(rig.post() for _ in range(4)))
        ranks = [headers["X-data-parallel-rank"] for headers in rig.decode[0].headers]
        assert sorted(ranks) == ["0", "0", "1", "1"]
        with grpc.insecure_channel(shared_daemon.grpc) as channel:
            for name in ("PREFILL-0", "PREFILL-1", "DECODE-0", "DECODE-1"):
                FleetServiceStub(channel).RemoveWorker(
                    RemoveWorkerRequest(model="ranked", worker_id=name)
                )
