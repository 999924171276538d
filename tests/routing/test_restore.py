"""How long a restored booking lives, whatever the clocks did meanwhile."""

import pytest

from eldr_service.core.worker import WorkerRole, WorkerSpec, WorkerState
from eldr_service.policies.registry import create
from eldr_service.routing.call import RouteCall
from eldr_service.routing.restore import GRACE_SECONDS, restore_bookings
from eldr_service.routing.router import Router
from eldr_service.routing.workers import Workers
from eldr_service.server.rpc.telemetry import Telemetry
from eldr_service.stores.bookings import BookingStore
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
