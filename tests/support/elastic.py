"""A fleet of workers without engines, and load on it: real sockets, one event loop."""

import asyncio
import random
import secrets
import time
from dataclasses import dataclass, field

import grpc
from eldr.v1 import fleet_pb2 as pb
from eldr.v1 import router_pb2
from google.protobuf.duration_pb2 import Duration
from wire import Client

REPORT_SECONDS = 0.5
MAX_AT_ONCE = 128  # requests: a machine too slow for the rate falls behind, without piling them up


class Worker:
    """Registers, reports what it holds, and leaves, or falls silent as if its host had died."""

    def __init__(self, client: Client, model: str, worker_id: str, *, ttl=3.0, **fields) -> None:
        self.client, self.model, self.worker_id = client, model, worker_id
        self.held: set[tuple[str, int]] = set()
        self.drained = asyncio.Event()
        self.life = (1 << 48) + secrets.randbelow(1 << 60)
        self._registration = pb.RegisterWorkerRequest(
            model=model, worker_id=worker_id, incarnation=self.life, url=worker_id, **fields
        )
        self._registration.time_to_live.CopyFrom(Duration(nanos=round(ttl % 1 * 1e9)))
        self._registration.time_to_live.seconds = int(ttl)
        self._number = 0
        self.forgotten = 0

    async def start(self) -> "Worker":
        await self.client.fleet.RegisterWorker(self._registration, timeout=20)
        await self.report()
        self._task = asyncio.create_task(self._loop())
        return self

    async def report(self, state=pb.WORKER_STATE_UNSPECIFIED) -> None:
        self._number += 1
        request = pb.ReportLoadRequest(
            model=self.model, worker_id=self.worker_id, incarnation=self.life,
            report_number=self._number, running_sequences=len(self.held), state=state,
            held=[pb.HeldRequest(request_id=r, attempt=a) for r, a in self.held],
        )  # fmt: skip
        try:
            answer = await self.client.fleet.ReportLoad(request, timeout=20)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            if state == pb.WORKER_STATE_GONE:
                return
            self.forgotten += 1  # the machine was too slow for its report
            await self.client.fleet.RegisterWorker(self._registration, timeout=20)
            await self.report(state)
        else:
            if answer.drained:
                self.drained.set()

    async def _loop(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            await self.report()

    def vanish(self) -> None:
        self._task.cancel()
        self.held.clear()

    async def leave(self) -> None:
        self.vanish()
        await self.report(pb.WORKER_STATE_GONE)


@dataclass
class Seen:
    """What the callers observed."""

    placed: int = 0
    moved: int = 0  # attempts after the first, because the worker was gone
    refused: list[str] = field(default_factory=list)
    route_seconds: list[float] = field(default_factory=list)
    wrong_group: list[str] = field(default_factory=list)


class Load:
    """Requests at a rate: prefilled by one of `prefill`, placed, decoded, released.

    If a request's worker goes, its next attempt is placed, as a proxy would.
    """

    def __init__(self, client, model, workers, rate, decode_seconds, *, prefill=None, seed=0):
        self.client, self.model, self.workers = client, model, workers
        self.rate, self.decode_seconds, self.prefill = rate, decode_seconds, prefill
        self.seen, self.rng = Seen(), random.Random(seed)
        self.stop = asyncio.Event()

    async def run(self) -> None:
        calls, began, number = set(), time.monotonic(), 0
        while not self.stop.is_set():
            while len(calls) >= MAX_AT_ONCE:
                await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            calls.add(task := asyncio.create_task(self._one(f"r{number}")))
            task.add_done_callback(calls.discard)
            number += 1
            await asyncio.sleep(max(0.0, began + number / self.rate - time.monotonic()))
        await asyncio.gather(*calls)

    async def _one(self, request_id: str) -> None:
        prefill = self.rng.choice(sorted(self.prefill)) if self.prefill is not None else ""
        if prefill:
            await asyncio.sleep(self.rng.uniform(0.01, 0.05))
        attempt, gone = 0, True
        while gone:
            began = time.monotonic()
            request = router_pb2.RouteRequest(
                model=self.model, request_id=request_id, attempt=attempt, prefill_worker=prefill
            )
            try:
                placement = (await self.client.router.Route(request, timeout=20)).placement
            except grpc.aio.AioRpcError as error:
                self.seen.refused.append(f"{error.code().name}: {error.details()}")
                return
            self.seen.route_seconds.append(time.monotonic() - began)
            self.seen.placed += 1
            gone = await self._decode(placement.worker_id, (request_id, attempt), prefill)
            attempt += gone
            self.seen.moved += gone
        released = router_pb2.ReleaseRequest(
            model=self.model, request_id=request_id, attempt=attempt
        )
        await self.client.router.Release(released, timeout=20)

    async def _decode(self, worker_id: str, key: tuple[str, int], prefill: str) -> bool:
        """Hold the request on its worker for a while; returns whether the worker went."""
        worker = self.workers.get(worker_id)
        if worker is None:
            return True
        if prefill and worker_id.split("-")[-1][0] != prefill.split("-")[-1][0]:
            self.seen.wrong_group.append(f"{prefill} to {worker_id}")
        worker.held.add(key)
        await asyncio.sleep(self.rng.expovariate(1 / self.decode_seconds))
        worker.held.discard(key)
        return self.workers.get(worker_id) is not worker


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
