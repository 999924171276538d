"""Bookings in the store: a row per living one, and their ends as they came.

Rows are JSON, and go to SQLite as one text per statement, which it takes apart by itself: so the
interpreter's lock is free while rows are written, and is taken a few times per commit, not per row.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from eldr_service.core.activation import Counts
from eldr_service.core.booking import Booking
from eldr_service.stores.sqlite import SqliteStore

_FIELDS = (
    *("number", "request_id", "attempt", "lease_id", "worker_id"),
    *("num_sequences", "prompt_tokens", "expected_output_tokens", "fingerprint"),
    *("lease_seconds", "policy", "partition_version", "similarity", "coverage", "stale", "slot"),
    *("top_k", "awaits_signature", "seen_running"),
)
_fields = attrgetter(*_FIELDS)
_KEEP = (
    "INSERT OR REPLACE INTO bookings (number, record)"
    " SELECT json_extract(value, '$[0]'), value FROM json_each(?)"
)
_DROP = "DELETE FROM bookings WHERE number IN (SELECT value FROM json_each(?))"


class Living(NamedTuple):
    """A booking to be kept, in the place of what was kept under its number.

    `life` is its worker's incarnation; 0 for any, of a worker that a file names.
    """

    model: str
    life: int
    booking: Booking


class End(NamedTuple):
    """How an attempt ended; `number` is its booking's, 0 where it had none.

    `until` says when to forget it, in seconds of the clock of the one who tells.
    """

    number: int
    model: str
    request_id: str
    attempt: int
    how: str
    worker_id: str
    until: float


class KeptBooking(NamedTuple):
    """A booking as it was kept; `expires` in Unix seconds, `fields` are the booking's own."""

    model: str
    life: int
    expires: float
    reason: str
    targets: Sequence[str]
    counts: Counts | None
    fields: dict[str, Any]


class BookingStore:
    """Writes and reads what a router knows of bookings.

    Parameters
    ----------
    store : SqliteStore
    """

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    def write(
        self, living: Iterable[Living], ends: Sequence[End], clock: float, afresh: bool = False
    ) -> None:
        """Write all in one transaction, the living ones first.

        Parameters
        ----------
        living, ends
        clock : float
            Unix seconds when the clock of deadlines stood at 0.
        afresh : bool
            In the place of all that is there.

        Raises
        ------
        StoreError
            Nothing of it was written.
        """
        kept = [_row(model, life, booking, clock) for model, life, booking in living]
        with self._store.transaction() as execute:
            if afresh:
                execute("DELETE FROM bookings")
                execute("DELETE FROM ends")
            if kept:
                execute(_KEEP, (json.dumps(kept),))
            if ends:
                execute(_DROP, (json.dumps([end.number for end in ends if end.number]),))
                told = [(*end[1:-1], end.until + clock) for end in ends]
                until = max(end.until for end in ends) + clock
                execute(
                    "INSERT INTO ends (until, records) VALUES (?, ?)", (until, json.dumps(told))
                )

    def forget(self, unix_seconds: float) -> None:
        """Drop the ends that were to be remembered until then; the oldest come first."""
        with self._store.transaction() as execute:
            execute(
                "DELETE FROM ends WHERE place < (SELECT coalesce("
                "(SELECT place FROM ends WHERE until > ? ORDER BY place LIMIT 1),"
                " (SELECT max(place) + 1 FROM ends)))",
                (unix_seconds,),
            )

    def living(self) -> Iterator[KeptBooking]:
        """All bookings, in the order in which they were made."""
        rows = self._store.read("SELECT record FROM bookings ORDER BY number")
        for _, model, life, expires, reason, targets, counts, *fields in json.loads(
            f"[{','.join(record for (record,) in rows)}]"
        ):
            named = dict(zip(_FIELDS, fields, strict=True))
            yield KeptBooking(model, life, expires, reason, targets, _counts(counts), named)

    def ends(self, unix_seconds: float) -> Iterator[End]:
        """The ends to be remembered longer than until then, oldest first; in Unix seconds."""
        rows = self._store.read(
            "SELECT records FROM ends WHERE until > ? ORDER BY place", (unix_seconds,)
        )
        for (records,) in rows:
            for record in json.loads(records):
                yield End(0, *record)


def _row(model: str, life: int, booking: Booking, clock: float) -> tuple[object, ...]:
    """What `living` reads; the number is first, for SQLite, and again in its place."""
    counts = booking.counts
    return (
        booking.number,
        model,
        life,
        booking.expires_at + clock,
        booking.reason.name,
        [spec.worker_id for spec in booking.targets],
        None if counts is None else _text(counts),
        *_fields(booking),
    )


def _text(counts: Counts) -> tuple[int, int, str, str]:
    """Shape, type and bytes, in the narrowest type that holds them."""
    narrow = counts.astype(np.min_scalar_type(counts.max(initial=0)))
    layers, experts = counts.shape
    return layers, experts, narrow.dtype.str, base64.b64encode(narrow.tobytes()).decode()


def _counts(text: tuple[int, int, str, str] | None) -> Counts | None:
    if text is None:
        return None
    layers, experts, kind, data = text
    counts = np.frombuffer(base64.b64decode(data), kind).reshape(layers, experts)
    return counts.astype(np.uint16) if counts.itemsize <= 2 else counts.astype(np.uint32)
