"""The longest messages leave other calls their turns."""

import asyncio
import time

import pytest
from eldr.v1 import fleet_pb2, router_pb2
from small_daemon import MODEL, SmallDaemon

from eldr_service.server.rpc.fleet_service import FleetService
from eldr_service.server.rpc.reading import MAX_LISTED
from eldr_service.server.rpc.router_service import RouterService
from eldr_service.server.rpc.telemetry import Telemetry


@pytest.fixture
def served():
    daemon = SmallDaemon()
    daemon.now = time.monotonic()
    telemetry = Telemetry()
    telemetry.watch(daemon.router)
    fleet = FleetService(daemon.router, daemon.workers, telemetry, 1.0, 256)
    return daemon, fleet, RouterService(daemon.router, telemetry, 8)


async def turns_beside(call):
    """How many turns others had while a call was answered, and the answer."""
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    answer = await call
    task.cancel()
    return turns, answer


async def test_workers_are_listed_in_turns(served):
    daemon, fleet, _ = served
    names = [f"w{i}" for i in range(1_000)]
    daemon.join(*names)
    turns, answer = await turns_beside(
        fleet.ListWorkers(fleet_pb2.ListWorkersRequest(model=MODEL), None)
    )
    assert [worker.worker_id for worker in answer.workers] == names
    assert turns > 50


async def test_a_worker_that_leaves_while_others_are_listed_is_left_out(served):
    daemon, fleet, _ = served
    daemon.join(*(f"w{i}" for i in range(1_000)))
    listing = asyncio.create_task(
        fleet.ListWorkers(fleet_pb2.ListWorkersRequest(model=MODEL), None)
    )
    await asyncio.sleep(0)
    daemon.workers.remove(MODEL, "w999", 0, daemon.now)
    listed = (await listing).workers
    assert [worker.worker_id for worker in listed] == [f"w{i}" for i in range(999)]


async def test_leases_are_renewed_in_turns(served):
    daemon, _, router = served
    daemon.join("w0")
    daemon.route("r")
    names = [*(f"nobody-{i}" for i in range(MAX_LISTED - 1)), "r"]
    leases = [router_pb2.LeaseReference(request_id=name) for name in names]
    turns, answer = await turns_beside(
        router.RenewLeases(router_pb2.RenewLeasesRequest(model=MODEL, leases=leases), None)
    )
    assert [lease.request_id for lease in answer.unknown] == names[:-1]
    assert turns > len(names) / 600


def report(daemon, names):
    """The first report of a worker that holds these."""
    return fleet_pb2.ReportLoadRequest(
        model=MODEL,
        worker_id="w0",
        incarnation=daemon.incarnations["w0"],
        report_number=1,
        held=[fleet_pb2.HeldRequest(request_id=name) for name in names],
    )


async def test_a_report_is_taken_in_turns(served):
    daemon, fleet, _ = served
    daemon.join("w0")
    daemon.route("r")
    names = [*(f"nobody-{i}" for i in range(MAX_LISTED - 1)), "r"]
    turns, answer = await turns_beside(fleet.ReportLoad(report(daemon, names), None))
    assert answer.accepted
    assert [unknown.request_id for unknown in answer.unknown] == names[:-1]
    assert daemon.model.bookings.live("r").seen_running
    assert turns > len(names) / 300


async def test_a_report_whose_sender_has_gone_is_taken_to_its_end(served):
    daemon, fleet, _ = served
    daemon.join("w0")
    daemon.route("r")
    names = [*(f"nobody-{i}" for i in range(10_000)), "r"]
    call = asyncio.create_task(fleet.ReportLoad(report(daemon, names), None))
    while daemon.model.fleet.report_number(0) < 1:
        await asyncio.sleep(0)
    call.cancel()
    assert not daemon.model.bookings.live("r").seen_running
    for _ in range(100):
        await asyncio.sleep(0)
    assert daemon.model.bookings.live("r").seen_running
