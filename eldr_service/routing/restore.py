"""Bookings of an earlier run come back: on their workers, for the rest of their leases."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter

import structlog

from eldr_service.core.booking import Booking
from eldr_service.core.decision import Reason
from eldr_service.core.ends import REMEMBER_SECONDS, Ended
from eldr_service.core.errors import ResourceExhaustedError
from eldr_service.core.worker import WorkerSpec
from eldr_service.routing.model import Model
from eldr_service.routing.router import Router
from eldr_service.stores.bookings import End, KeptBooking

GRACE_SECONDS = 30.0
"""For what could not renew its lease while no daemon was there."""

log = structlog.get_logger(__name__)


def restore_ends(router: Router, ends: Iterable[End], clock: float) -> None:
    """Remember what had ended; `clock` is the Unix time at which the router's was 0."""
    for end in ends:
        if model := _model(router, end.model):
            model.bookings.remember(
                end.request_id, end.attempt, Ended[end.how], end.until - clock, end.worker_id
            )


def restore_bookings(
    router: Router, kept: Sequence[KeptBooking], clock: float, now: float
) -> list[tuple[str, Booking]]:
    """Count the bookings of an earlier run again.

    A lease goes on by the wall clock: for what is left of it, `GRACE_SECONDS` at least and its
    whole length at most, so that a clock that was set, or a long time without a daemon, neither
    ends a request that runs nor keeps a dead one.

    Returns
    -------
    ended : list of (model, booking)
        Those whose worker's life is over, which end now; the caller tells the store.
    """
    ended = []
    for name, records in groupby(sorted(kept, key=_of_model), _of_model):
        if model := _model(router, name):
            made = _bookings(model, records, clock, now)
            gone = [booking for booking in made if booking.row < 0]
            for booking in gone:
                until = now + REMEMBER_SECONDS
                model.bookings.remember(*booking.key, Ended.WORKER_GONE, until, booking.worker_id)
            model.restore([booking for booking in made if booking.row >= 0])
            ended += [(name, booking) for booking in gone]
    if ended:
        log.warning("bookings ended: their workers' lives are over", bookings=len(ended))
    return ended


def _bookings(
    model: Model, records: Iterable[KeptBooking], clock: float, now: float
) -> list[Booking]:
    """The bookings as they were; on row -1 those whose worker's life is over."""
    fleet, now_there = model.fleet, clock + now
    rows = {fleet.spec(row).worker_id: row for row in fleet.rows()}
    specs = {worker_id: fleet.spec(row) for worker_id, row in rows.items()}
    lives = {worker_id: fleet.incarnation(row) for worker_id, row in rows.items()}
    generations = {row: fleet.generation(row) for row in rows.values()}
    generations[-1] = 0
    targets: dict[tuple[str, ...], tuple[WorkerSpec, ...]] = {}  # few, and each of many bookings
    made = []
    for kept in records:
        worker_id = kept.targets[0]
        row = rows.get(worker_id, -1)
        if kept.life and kept.life != lives.get(worker_id):
            row = -1
        if (ids := tuple(kept.targets)) not in targets:
            targets[ids] = tuple(specs[target] for target in ids if target in specs)
        left = min(max(kept.expires - now_there, GRACE_SECONDS), kept.lease_seconds)
        made.append(booking_again(model, kept, row, generations[row], targets[ids], now + left))
    return made


def booking_again(
    model: Model,
    kept: KeptBooking,
    row: int,
    generation: int,
    targets: tuple[WorkerSpec, ...],
    expires_at: float,
) -> Booking:
    """A booking as it was kept, on a row."""
    return Booking(
        request_id=kept.request_id,
        attempt=kept.attempt,
        lease_id=kept.lease_id,
        row=row,
        generation=generation,
        worker_id=kept.targets[0],
        num_sequences=kept.num_sequences,
        prompt_tokens=kept.prompt_tokens,
        expected_output_tokens=kept.expected_output_tokens,
        fingerprint=kept.fingerprint,
        lease_seconds=kept.lease_seconds,
        expires_at=expires_at,
        reason=_REASONS[kept.reason],
        policy=kept.policy,
        partition_version=kept.partition_version,
        similarity=kept.similarity,
        coverage=kept.coverage,
        stale=bool(kept.stale),
        targets=targets,
        slot=kept.slot,
        kept=kept.counts if model.policy.keeps_counts else None,
        top_k=kept.top_k,
        awaits_signature=bool(kept.awaits_signature),
        seen_running=bool(kept.seen_running),
        number=kept.number,
        answered=True,  # or its caller has given up, and the lease sees to it
    )


_REASONS = {reason.name: reason for reason in Reason}
_of_model = attrgetter("model")


def _model(router: Router, name: str) -> Model | None:
    try:
        return router.model_or_new(name)
    except ResourceExhaustedError as error:  # fewer may be there than in the earlier run
        log.error("bookings not restored", model=name, error=str(error))
        return None
