"""Recovery after the shared state was lost, fully or partly: publish all, adopt all."""

import time

from eldr_service.core.ends import Ended
from eldr_service.routing.router import Router
from eldr_service.routing.workers import Workers, record_of
from eldr_service.server.replicas.follower import Follower
from eldr_service.server.replicas.mirror import MirroredStore, read_worker, worker_fields
from eldr_service.server.replicas.telling import Telling
from eldr_service.stores.bookings import kept_of
from eldr_service.stores.shared import operations
from eldr_service.stores.shared.state import SharedState


def publish(
    telling: Telling,
    router: Router,
    workers: Workers,
    store: MirroredStore,
) -> None:
    """Publish all that this replica knows: the state was lost, or has lost its latest changes."""
    telling.commits.clear()
    for model in router.models.values():
        for version in store.partition_versions(model.name):
            data = store.partition(model.name, version)
            telling.tell(("partition", model.name, version, data))
        if text := store.text_of(model.name):
            telling.tell(("model", model.name, "", text))
        for row in model.fleet.rows():
            if workers.life(model, row):
                telling.tell(("know", *worker_fields(record_of(model, row))))
        for booking in model.bookings:
            telling.tell_of_booking(model.name, booking)
        for part in model.bookings.remembered():
            for request_id, attempt, how, worker_id, _ in part:
                if how is not Ended.WITHDRAWN:  # which concerns only this view
                    lease = "" if how.final else operations.NO_LEASE
                    end = operations.end(model.name, request_id, attempt, lease, how, worker_id)
                    telling.tell(end)


async def fetch_partitions(state: SharedState, store: MirroredStore) -> None:
    """Fetch all partitions in the shared state."""
    for model, version in await state.partition_versions():
        if int(version) not in store.partition_versions(model):
            data = await state.partition(model, int(version))
            if data is not None:
                store.keep_partition(model, int(version), data)


async def adopt(
    state: SharedState,
    router: Router,
    workers: Workers,
    store: MirroredStore,
    follower: Follower,
) -> None:
    """Take over the shared state, and nothing else except what was done since."""
    before = {
        booking.lease_id: (model.name, booking)
        for model in router.models.values()
        for booking in model.bookings
    }
    await fetch_partitions(state, store)
    models = await state.models()
    records = [read_worker(record) for record in await state.workers()]
    with follower.elsewhere():
        for text in models:
            follower.model(text)
        for worker in records:
            follower.worker(worker)
    found = set()
    async for record in state.bookings():
        kept = kept_of(record)
        found.add(kept.lease_id)
        if kept.lease_id not in before:
            with follower.elsewhere():
                follower.book(kept)
    now = time.monotonic()
    with follower.elsewhere():
        for lease_id, (model, booking) in before.items():
            if lease_id not in found:
                router.withdraw(model, booking, now)
        known = {(worker.model, worker.worker_id) for worker in records}
        for its in list(router.models.values()):
            for row in list(its.fleet.rows()):
                worker_id = its.fleet.spec(row).worker_id
                if (its.name, worker_id) not in known and workers.life(its, row):
                    workers.remove(its.name, worker_id, 0, now)
