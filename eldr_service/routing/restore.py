"""Bookings of an earlier run come back: on their workers, for the rest of their leases."""

from collections.abc import Iterable

import structlog

from eldr_service.core.booking import Booking
from eldr_service.core.decision import Reason
from eldr_service.core.ends import REMEMBER_SECONDS, Ended
from eldr_service.core.errors import ResourceExhaustedError
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
    router: Router, kept: Iterable[KeptBooking], clock: float, now: float
) -> tuple[int, list[tuple[str, Booking]]]:
    """Count the bookings of an earlier run again.

    A lease goes on by the wall clock: for what is left of it, `GRACE_SECONDS` at least and its
    whole length at most, so that a clock that was set, or a long time without a daemon, neither
    ends a request that runs nor keeps a dead one.

    Returns
    -------
    restored : int
    ended : list of (model, booking)
        Those whose worker's life is over, which end now; the caller tells the store.
    """
    restored = 0
    ended = []
    for record in kept:
        model = _model(router, record.model)
        if model is None:
            continue
        booking = _booking(model, record, clock, now)
        if booking.row < 0 or model.bookings.live(booking.request_id):
            until = now + REMEMBER_SECONDS
            model.bookings.remember(*booking.key, Ended.WORKER_GONE, until, booking.worker_id)
            ended.append((model.name, booking))
        else:
            model.restore(booking)
            restored += 1
    if ended:
        log.warning("bookings ended: their workers' lives are over", bookings=len(ended))
    return restored, ended


def _booking(model: Model, record: KeptBooking, clock: float, now: float) -> Booking:
    """The booking as it was; on row -1 where its worker's life is over."""
    fields = record.fields
    fleet = model.fleet
    row = fleet.row(fields["worker_id"])
    if row is not None and record.life not in (0, fleet.incarnation(row)):
        row = None
    lease = fields["lease_seconds"]
    left = min(max(record.expires - clock - now, GRACE_SECONDS), lease)
    others = (fleet.row(worker) for worker in record.targets)
    return Booking(
        row=-1 if row is None else row,
        generation=0 if row is None else fleet.generation(row),
        expires_at=now + left,
        reason=Reason[record.reason],
        targets=tuple(fleet.spec(other) for other in others if other is not None),
        counts=record.counts if model.policy.keeps_counts else None,
        answered=True,  # or its caller has given up, and the lease sees to it
        **fields,
    )


def _model(router: Router, name: str) -> Model | None:
    try:
        return router.model_or_new(name)
    except ResourceExhaustedError as error:  # fewer may be there than in the earlier run
        log.error("bookings not restored", model=name, error=str(error))
        return None
