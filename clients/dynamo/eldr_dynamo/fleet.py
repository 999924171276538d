"""Maps the daemon's workers to Dynamo's instances, as both come and go."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from dynamo.runtime import Client
from eldr.v1.fleet_pb2 import (
    ListWorkersRequest,
    RegisterWorkerRequest,
    RemoveWorkerRequest,
    Worker,
    WorkerCapacity,
    WorkerRole,
)
from eldr.v1.fleet_pb2_grpc import FleetServiceStub
from eldr_client.channel import Endpoint

logger = logging.getLogger("eldr_dynamo")

# Seconds between looks at Dynamo's instances, which this process has in memory.
LOOK = 0.25
# Looks after which the daemon is asked again even if no instance came or went.
PATIENCE = 20
TIMEOUT = 2.0
# Seconds for which an unreachable worker is left alone, if there are others.
REST = 5.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where a worker is; `dp_rank` is None if the instance has a single worker."""

    instance: int
    dp_rank: int | None = None


class Fleet:
    """The decode instances of one endpoint, as workers of one model.

    An instance is the worker whose URL has the host and port that the instance serves on: an engine
    with ELDR's connector, which registers itself. Else it is the one whose URL names it,
    `dyn://ENDPOINT/INSTANCE`: such workers are registered here, and removed when their instance is
    gone. Several routers of the same endpoint do the same without harm.

    Parameters
    ----------
    instances : Client
        Client of the decode workers' endpoint.
    endpoint : str
        Its name, NAMESPACE.COMPONENT.ENDPOINT.
    model : str
        The model's name at the daemon.
    daemon : Endpoint
        The daemon; a token needs the role admin.
    capacity : int
        Sequences that an instance registered here takes at a time; 0 is the daemon's default.
    """

    def __init__(
        self, instances: Client, endpoint: str, model: str, daemon: Endpoint, capacity: int = 0
    ) -> None:
        self._instances = instances
        self._prefix = f"dyn://{endpoint}/"
        self._endpoint = endpoint
        self._model = model
        self._daemon = daemon
        self._capacity = capacity
        self._doubt = asyncio.Event()
        self._trouble = ""
        self._workers: Mapping[str, Target] = {}
        self._rests_until: dict[str, float] = {}

    def candidates(self) -> dict[str, Target]:
        """The workers with a live instance, without those at rest unless all are at rest."""
        there = set(self._instances.instance_ids())
        found = {name: each for name, each in self._workers.items() if each.instance in there}
        now = time.monotonic()
        awake = {n: each for n, each in found.items() if self._rests_until.get(n, 0.0) <= now}
        return awake or found

    def rest(self, worker: str) -> None:
        """Leave a failed worker alone for a while; Dynamo may not know yet that it is gone."""
        self._rests_until[worker] = time.monotonic() + REST

    def doubt(self) -> None:
        """Check with the daemon soon: it may have forgotten the workers."""
        self._doubt.set()

    async def follow(self) -> None:
        """Keep workers and instances in step until cancelled."""
        channel = self._daemon.open_aio()
        fleet = FleetServiceStub(channel)
        known: set[int] | None = None
        looks = 0
        try:
            while True:
                there = set(self._instances.instance_ids())
                if there != known or self._doubt.is_set() or looks >= PATIENCE:
                    self._doubt.clear()
                    known, looks = (there if await self._try(fleet) else None), 0
                looks += 1
                await asyncio.sleep(LOOK)
        finally:
            await channel.close()

    async def _try(self, fleet: Any) -> bool:
        try:
            await self._agree(fleet)
        except grpc.RpcError as error:
            trouble = f"{error.code().name}: {error.details()}"
            if trouble != self._trouble:  # log each change once
                logger.warning("the daemon's workers cannot be synchronized: %s", trouble)
            self._trouble = trouble
            return False
        self._trouble = ""
        return True

    async def _agree(self, fleet: Any) -> None:
        instances = {each.instance_id: _address(each) for each in self._instances.instances()}
        by_address = {address: number for number, address in instances.items() if address}
        decoding = [w for w in await self._list(fleet) if w.role != WorkerRole.WORKER_ROLE_PREFILL]
        own = {
            _number(worker.url.removeprefix(self._prefix)): worker
            for worker in decoding
            if worker.url.startswith(self._prefix)
        }
        engines = [w for w in decoding if _host_and_port(w.url) in by_address]
        ranks = Counter(_host_and_port(engine.url) for engine in engines)
        workers: dict[str, Target] = {}
        for engine in engines:
            address = _host_and_port(engine.url)
            rank = engine.dp_rank if ranks[address] > 1 else None
            workers[engine.worker_id] = Target(by_address[address], rank)
        missing = instances.keys() - {target.instance for target in workers.values()}
        for number in own.keys() - missing:
            await self._remove(fleet, own[number])
        for number in missing:
            if number not in own:
                await self._register(fleet, number)
            workers[self._worker_id(number)] = Target(number)
        if workers.keys() != self._workers.keys():
            names = ", ".join(sorted(workers)) or "none"
            logger.info("decode workers of %s: %s", self._endpoint, names)
        self._workers = workers
        self._rests_until = {n: t for n, t in self._rests_until.items() if n in workers}

    def _worker_id(self, number: int) -> str:
        return f"{self._endpoint}/{number:x}"

    async def _list(self, fleet: Any) -> list[Worker]:
        try:
            listed = await self._call(fleet.ListWorkers, ListWorkersRequest(model=self._model))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return []  # a model that the daemon has never heard of
        return list(listed.workers)

    async def _register(self, fleet: Any, number: int) -> None:
        request = RegisterWorkerRequest(
            model=self._model,
            worker_id=self._worker_id(number),
            url=f"{self._prefix}{number:x}",
            role=WorkerRole.WORKER_ROLE_DECODE,
            capacity=WorkerCapacity(sequences=self._capacity),
            only_new=True,
        )
        try:
            await self._call(fleet.RegisterWorker, request)
        except grpc.RpcError as error:
            # Another router was faster.
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise

    async def _remove(self, fleet: Any, worker: Worker) -> None:
        request = RemoveWorkerRequest(
            model=self._model, worker_id=worker.worker_id, incarnation=worker.incarnation
        )
        try:
            await self._call(fleet.RemoveWorker, request)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise

    async def _call(self, method: Any, request: Any) -> Any:
        return await method(request, timeout=TIMEOUT, metadata=self._daemon.metadata)


def _address(instance: Any) -> str:
    """HOST:PORT that an instance serves on, or an empty string for a transport without one."""
    transport = instance.transport
    return transport.address.partition("/")[0] if transport.kind == "tcp" else ""


def _host_and_port(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]


def _number(text: str) -> int:
    """The instance that a URL names; -1, which no instance has, if it is not a number."""
    try:
        return int(text, 16)
    except ValueError:
        return -1
