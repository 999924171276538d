"""A disk that does not answer holds nobody up for long."""

import asyncio
import time

from eldr_service.core.worker import WorkerRole, WorkerSpec, WorkerState
from eldr_service.policies.registry import create
from eldr_service.routing.call import RouteCall
from eldr_service.routing.router import Router
from eldr_service.routing.workers import Workers
from eldr_service.server.durability import STALL_SECONDS, Durability
from eldr_service.server.rpc.telemetry import Telemetry
from eldr_service.stores.bookings import BookingStore
from eldr_service.stores.sqlite import SqliteStore


async def ticking(durability: Durability, until) -> None:
    deadline = time.monotonic() + 20
    while not until():
        assert time.monotonic() < deadline
        durability.tick(time.monotonic())
        await asyncio.sleep(0.05)


async def stalled(store: SqliteStore, told: list[bool]) -> None:
    telemetry = Telemetry()
    durability = Durability(BookingStore(store), told.append)
    router = Router(lambda: create("round-robin", {}), telemetry, journal=durability)
    telemetry.watch(router)
    workers = Workers(router, store, 1)
    spec = WorkerSpec(worker_id="w", role=WorkerRole.DECODE, url="http://w", capacity_sequences=99)
    workers.register("m", spec, WorkerState.READY, None, time.monotonic())
    assert durability.start(router, workers, time.monotonic()) == 0
    router.route(RouteCall("m", "before"), time.monotonic())
    await durability.written()

    held, release = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold() -> None:
        with store.transaction():  # as a disk would that takes its time
            loop.call_soon_threadsafe(held.set)
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result()

    holding = asyncio.create_task(asyncio.to_thread(hold))
    await held.wait()
    began = time.monotonic()
    router.route(RouteCall("m", "meanwhile"), began)
    written = durability.written()
    await asyncio.sleep(0.1)
    router.route(RouteCall("m", "behind it"), began)
    behind = durability.written()
    await ticking(durability, lambda: written.done() and behind.done())
    assert time.monotonic() - began > STALL_SECONDS
    assert not durability.is_safe
    assert durability.written() is None  # the next ones do not wait at all
    router.route(RouteCall("m", "unsaved"), time.monotonic())
    release.set()
    await holding
    await ticking(durability, lambda: durability.is_safe)
    await durability.close()


def test_a_disk_that_does_not_answer_holds_up_answers_for_two_seconds(tmp_path):
    store, told = SqliteStore(tmp_path), []
    asyncio.run(stalled(store, told))
    assert told == [True, False, True]
    kept = {booking.request_id for booking in BookingStore(store).living()}
    assert kept == {"before", "meanwhile", "behind it", "unsaved"}
    store.close()
