"""How long a restored booking lives, whatever the clocks did meanwhile."""

import pytest

from eldr_service.core.worker import WorkerRole, WorkerSpec, WorkerState
from eldr_service.policies.registry import create
from eldr_service.routing.call import RouteCall
from eldr_service.routing.restore import GRACE_SECONDS, restore_bookings
from eldr_service.routing.router import Router
from eldr_service.routing.workers import Workers
from eldr_service.server.rpc.telemetry import Telemetry
from eldr_service.stores.bookings import READ_AT_ONCE, BookingStore
from eldr_service.stores.sqlite import SqliteStore

LEASE = 900.0
WRITTEN = 1_700_000_000.0  # Unix seconds


def fleet(store: SqliteStore) -> tuple[Router, Workers]:
    telemetry = Telemetry()
    router = Router(lambda: create("round-robin", {}), telemetry)
    telemetry.watch(router)
    return router, Workers(router, store, 1)


@pytest.mark.parametrize(
    ("later", "left"),
    [
        (0.0, LEASE),
        (100.0, LEASE - 100.0),
        (LEASE - 1.0, GRACE_SECONDS),
        (10 * LEASE, GRACE_SECONDS),  # the daemon was away, or the clock was set forward
        (-3_600.0, LEASE),  # it was set back
    ],
)
def test_a_lease_goes_on_by_the_wall_clock(tmp_path, later, left):
    store = SqliteStore(tmp_path)
    router, workers = fleet(store)
    spec = WorkerSpec(worker_id="w", role=WorkerRole.DECODE, url="http://w", capacity_sequences=8)
    workers.register("m", spec, WorkerState.READY, None, 50.0)
    booking = router.route(RouteCall("m", "r"), 50.0).booking
    booking.number = 1
    written = "m", workers.life(router.models["m"], booking.row), booking
    BookingStore(store).write([written], [], WRITTEN - 50.0)

    again, workers = fleet(store)
    for record in store.workers():
        workers.restore(record, 7.0)
    kept = list(BookingStore(store).living())
    assert restore_bookings(again, kept, WRITTEN + later - 7.0, 7.0) == []
    restored = again.models["m"].bookings.live("r")
    assert restored.expires_at == pytest.approx(7.0 + left)
    again.tick(7.0 + left - 0.5)
    assert again.models["m"].fleet.booked(0) == 1
    again.tick(7.0 + left + 0.5)
    assert again.models["m"].fleet.booked(0) == 0
    store.close()


def test_many_bookings_of_several_models_come_back_in_their_order(tmp_path):
    """More than are read at once, with gaps between their numbers."""
    store, names = SqliteStore(tmp_path), ("m", "n")
    router, workers = fleet(store)
    spec = WorkerSpec(
        worker_id="w", role=WorkerRole.DECODE, url="http://w", capacity_sequences=2 * READ_AT_ONCE
    )
    for name in names:
        workers.register(name, spec, WorkerState.READY, None, 50.0)
    written = []
    for n in range(2 * READ_AT_ONCE + 1):
        name = names[n % 2]
        booking = router.route(RouteCall(name, f"r{n}"), 50.0).booking
        booking.number = 3 * n + 1
        written.append((name, workers.life(router.models[name], booking.row), booking))
    BookingStore(store).write(written, [], WRITTEN - 50.0)

    again, workers = fleet(store)
    for record in store.workers():
        workers.restore(record, 7.0)
    assert restore_bookings(again, BookingStore(store).living(), WRITTEN - 7.0, 7.0) == []
    for name in names:
        of_it = [booking.request_id for model, _, booking in written if model == name]
        assert [booking.request_id for booking in again.models[name].bookings] == of_it
        assert again.models[name].fleet.booked(0) == len(of_it)
    assert BookingStore(store).last_number() == 6 * READ_AT_ONCE + 1
    store.close()
