"""Restores bookings of an earlier run: on their workers, for the rest of their leases."""

from collections.abc import Iterable

import structlog

from eldr_service.core.booking import Booking
from eldr_service.core.decision import Reason
from eldr_service.core.ends import REMEMBER_SECONDS, Ended
from eldr_service.core.errors import ResourceExhaustedError
from eldr_service.core.signature_memory import SignatureSource
from eldr_service.core.worker import WorkerSpec
from eldr_service.routing.model import Model
from eldr_service.routing.router import Router
from eldr_service.stores.bookings import End, KeptBooking

GRACE_SECONDS = 30.0
"""For requests that could not renew their lease while no daemon was running."""

log = structlog.get_logger(__name__)


def restore_ends(router: Router, ends: Iterable[End], clock: float) -> None:
    """Remember earlier ends; `clock` is the Unix time at which the router's clock was 0."""
    for end in ends:
        if model := _model(router, end.model):
            model.bookings.remember(
                end.request_id, end.attempt, Ended[end.how], end.until - clock, end.worker_id
            )


def restore_bookings(
    router: Router, kept: Iterable[KeptBooking], clock: float, now: float
) -> list[tuple[str, Booking]]:
    """Count the bookings of an earlier run again.

    A lease goes on by the wall clock for what is left of it, but at least `GRACE_SECONDS` and at
    most its whole length. So neither a clock that was set nor a long time without a daemon ends a
    running request or keeps a dead one.

    Returns
    -------
    ended : list of (model, booking)
        Bookings whose worker's life is over, which end now; the caller tells the store.
    """
    ended = []
    models: dict[str, _Again | None] = {}
    for one in kept:
        if (name := one.model) not in models:
            models[name] = _Again(model) if (model := _model(router, name)) else None
        if again := models[name]:
            again.take(one, clock + now, now)
    for again in filter(None, models.values()):
        model = again.model
        for booking in again.gone:
            until = now + REMEMBER_SECONDS
            model.bookings.remember(*booking.key, Ended.WORKER_GONE, until, booking.worker_id)
        model.restore(again.alive)
        ended += [(model.name, booking) for booking in again.gone]
    if ended:
        log.warning("bookings ended: their workers' lives are over", bookings=len(ended))
    return ended


class _Again:
    """One model's bookings as they were; those in `gone` had a worker whose life is over."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.alive: list[Booking] = []
        self.gone: list[Booking] = []
        fleet = model.fleet
        self._specs = {fleet.spec(row).worker_id: fleet.spec(row) for row in fleet.rows()}
        self._places = {  # row, life and generation
            fleet.spec(row).worker_id: (row, fleet.incarnation(row), fleet.generation(row))
            for row in fleet.rows()
        }
        self._targets: dict[tuple[str, ...], tuple[WorkerSpec, ...]] = {}  # few, each used by many

    def take(self, kept: KeptBooking, now_there: float, now: float) -> None:
        """Restore a booking; `now_there` is `now` in Unix seconds."""
        ids = tuple(kept.targets)
        if (targets := self._targets.get(ids)) is None:
            targets = tuple(self._specs[target] for target in ids if target in self._specs)
            self._targets[ids] = targets
        row, life, generation = self._places.get(ids[0], (-1, 0, 0))
        if kept.life and kept.life != life:
            row, generation = -1, 0
        left = min(max(kept.expires - now_there, GRACE_SECONDS), kept.lease_seconds)
        booking = booking_again(self.model, kept, row, generation, targets, now + left)
        (self.gone if row < 0 else self.alive).append(booking)


def booking_again(
    model: Model,
    kept: KeptBooking,
    row: int,
    generation: int,
    targets: tuple[WorkerSpec, ...],
    expires_at: float,
) -> Booking:
    """A booking as it was stored, on a row."""
    # Unpacked at once: looking up the fields one by one would take as long as all the rest.
    (
        number, _, _, _, reason, kept_targets, counts, request_id, attempt, lease_id,
        num_sequences, prompt_tokens, expected_output_tokens, fingerprint, lease_seconds, policy,
        partition_version, similarity, coverage, stale, slot, top_k, awaits_signature, seen_running,
        source,
    ) = kept  # fmt: skip
    return Booking(
        request_id=request_id,
        attempt=attempt,
        lease_id=lease_id,
        row=row,
        generation=generation,
        worker_id=kept_targets[0],
        num_sequences=num_sequences,
        prompt_tokens=prompt_tokens,
        expected_output_tokens=expected_output_tokens,
        fingerprint=fingerprint,
        lease_seconds=lease_seconds,
        expires_at=expires_at,
        reason=_REASONS[reason],
        policy=policy,
        partition_version=partition_version,
        similarity=similarity,
        coverage=coverage,
        stale=bool(stale),
        targets=targets,
        slot=slot,
        kept=counts if model.policy.keeps_counts else None,
        top_k=top_k,
        awaits_signature=bool(awaits_signature),
        source=SignatureSource(source),
        seen_running=bool(seen_running),
        number=number,
        answered=True,  # or its caller has given up, and the lease expires
    )


_REASONS = {reason.name: reason for reason in Reason}


def _model(router: Router, name: str) -> Model | None:
    try:
        return router.model_or_new(name)
    except ResourceExhaustedError as error:  # the limit may be lower than in the earlier run
        log.error("bookings not restored", model=name, error=str(error))
        return None
