"""FleetService: workers register, report, drain and leave."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import grpc
from eldr.v1 import fleet_pb2 as pb
from eldr.v1 import fleet_pb2_grpc

from eldr_service.core.errors import EldrError, ResourceExhaustedError
from eldr_service.core.worker import WorkerState
from eldr_service.routing.router import Router
from eldr_service.routing.workers import Workers
from eldr_service.server.rpc import reading, writing
from eldr_service.server.rpc.caller import CALLER
from eldr_service.server.rpc.errors import abort, status_code
from eldr_service.server.rpc.telemetry import Telemetry
from eldr_service.server.rpc.turns import in_turns, let_go, slices
from eldr_service.server.rpc.unary import unary

MAX_BEHIND = 4_096
SLICE = 16
"""Workers listed in one step of the loop, less than half a millisecond."""
LISTED_SLICE = 1_000
"""Requests of a report that are read or answered in one step, less than a millisecond."""


class FleetService(fleet_pb2_grpc.FleetServiceServicer):
    """Reads messages, updates the fleet, writes answers.

    Parameters
    ----------
    report_interval : float
        Seconds between the reports that workers are asked for.
    default_capacity : int
        Sequences of a worker without a stated capacity.
    written : callable () -> Awaitable or None
        What to wait for before a change of the fleet is answered.
    """

    def __init__(
        self,
        router: Router,
        workers: Workers,
        telemetry: Telemetry,
        report_interval: float,
        default_capacity: int,
        written: Callable[[], Awaitable[None] | None] = lambda: None,
    ) -> None:
        self.telemetry = telemetry
        self._router = router
        self._workers = workers
        self._report_interval = writing.duration(report_interval)
        self._default_capacity = default_capacity
        self._written = written
        self._watchers: set[asyncio.Queue[pb.Worker]] = set()

    @unary
    async def RegisterWorker(  # noqa: N802
        self, request: pb.RegisterWorkerRequest, context: grpc.aio.ServicerContext
    ) -> pb.RegisterWorkerResponse:
        """Register a worker."""
        incarnation = self._workers.register(
            reading.model_name(request),
            reading.worker_spec(request, self._default_capacity),
            reading.initial_state(request),
            reading.worker_geometry(request),
            time.monotonic(),
            only_new=request.only_new,
            incarnation=reading.incarnation(request),
        )
        if written := self._written():
            await written
        return pb.RegisterWorkerResponse(
            incarnation=incarnation, report_interval=self._report_interval
        )

    @unary
    async def DrainWorker(  # noqa: N802
        self, request: pb.DrainWorkerRequest, context: grpc.aio.ServicerContext
    ) -> pb.DrainWorkerResponse:
        """Place nothing new on a worker."""
        booked = self._workers.drain(
            reading.model_name(request),
            reading.worker_id(request),
            until=time.monotonic() + reading.drain_seconds(request),
            remove=request.remove,
        )
        if written := self._written():
            await written
        return pb.DrainWorkerResponse(booked_sequences=booked)

    @unary
    async def RemoveWorker(  # noqa: N802
        self, request: pb.RemoveWorkerRequest, context: grpc.aio.ServicerContext
    ) -> pb.RemoveWorkerResponse:
        """Remove a worker."""
        ended = self._workers.remove(
            reading.model_name(request),
            reading.worker_id(request),
            request.incarnation,
            time.monotonic(),
        )
        if written := self._written():
            await written
        return pb.RemoveWorkerResponse(ended_bookings=ended)

    @unary
    async def ReportLoad(  # noqa: N802
        self, request: pb.ReportLoadRequest, context: grpc.aio.ServicerContext
    ) -> pb.ReportLoadResponse:
        """Take in a worker's report."""
        model_name, worker_id = reading.model_name(request), reading.worker_id(request)
        report, held = reading.load_report(request), dict[tuple[str, int], None]()
        async for part in slices(request.held, LISTED_SLICE):
            held |= dict.fromkeys((of.request_id, of.attempt) for of in part)
        report = replace(report, held=held)
        accepted, unknown = await in_turns(
            self._workers.reporting(model_name, worker_id, report, time.monotonic())
        )
        await let_go(held, LISTED_SLICE)
        state, drained = self._workers.told(model_name, worker_id)
        response = pb.ReportLoadResponse(
            accepted=accepted,
            report_interval=self._report_interval,
            state=f"WORKER_STATE_{state.name}",
            drained=drained and accepted,
        )
        if accepted:
            self.telemetry.on_room(model_name)
        async for some in slices(unknown, LISTED_SLICE):
            for request_id, attempt in some:
                response.unknown.add(request_id=request_id, attempt=attempt)
        return response

    @unary
    async def ListWorkers(  # noqa: N802
        self, request: pb.ListWorkersRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListWorkersResponse:
        """Answer with the workers."""
        model = reading.listed_model(request)
        response = pb.ListWorkersResponse()
        async for worker in self._listed(model):
            response.workers.append(worker)
        return response

    async def WatchWorkers(  # noqa: N802
        self, request: pb.WatchWorkersRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchWorkersResponse]:
        """Answer with the workers, and then with every change."""
        try:
            reading.listed_model(request)
        except EldrError as error:
            self.telemetry.refused(self, "WatchWorkers", status_code(error), error)
            await abort(context, error)
        may_touch = CALLER.get().may_touch
        changes: asyncio.Queue[pb.Worker] = asyncio.Queue(MAX_BEHIND)
        self._watchers.add(changes)
        try:
            is_known = request.model in ("", *self._router.models)
            known = [w async for w in self._listed(request.model)] if is_known else []
            for place, worker in enumerate(known, start=1):
                yield pb.WatchWorkersResponse(worker=worker, synchronized=place == len(known))
            if not known:
                yield pb.WatchWorkersResponse(synchronized=True)
            while changes in self._watchers or not changes.empty():
                worker = await changes.get()
                if request.model == worker.model or (not request.model and may_touch(worker.model)):
                    yield pb.WatchWorkersResponse(worker=worker, synchronized=True)
            await abort(
                context, ResourceExhaustedError(f"{MAX_BEHIND} changes behind; watch again", 0.1)
            )
        finally:
            self._watchers.discard(changes)

    def worker_changed(self, model: str, row: int, state: WorkerState) -> None:
        """Tell the watchers; one that is too far behind is cut off."""
        if not self._watchers:
            return
        worker = writing.worker(self._router.models[model], row, time.monotonic(), state)
        for changes in list(self._watchers):
            try:
                changes.put_nowait(worker)
            except asyncio.QueueFull:
                self._watchers.discard(changes)

    async def _listed(self, model_name: str) -> AsyncIterator[pb.Worker]:
        """The workers, each read when it is reached: other calls run between slices."""
        names = [self._router.model(model_name).name] if model_name else sorted(self._router.models)
        may_touch = CALLER.get().may_touch
        models = [self._router.model(name) for name in names if may_touch(name)]
        listed = [(m, m.fleet.spec(row).worker_id) for m in models for row in m.fleet.rows()]
        for place, (model, worker_id) in enumerate(listed, start=1):
            row = model.fleet.row(worker_id)
            if row is not None:  # it may have left since
                yield writing.worker(model, row, time.monotonic())
            if place % SLICE == 0:
                await asyncio.sleep(0)
