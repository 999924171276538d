"""Bookings in the store: one row per living booking, and ends as they came.

Rows are JSON, passed to SQLite as one text per statement, which SQLite splits: the GIL is free
while rows are written, and taken a few times per commit, not per row.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

import numpy as np
from pydantic_core import from_json

from eldr_service.core.activation import Counts
from eldr_service.core.booking import Booking
from eldr_service.stores.records import StoreError
from eldr_service.stores.sqlite import SqliteStore

READ_AT_ONCE = 500
"""Bookings per part: a few hundred kilobytes without counts, which fit the processor's caches."""
_KEEP = (
    "INSERT OR REPLACE INTO bookings (number, record)"
    " SELECT json_extract(value, '$[0]'), value FROM json_each(?)"
)
_quoted = encode_basestring_ascii
_known = lru_cache(8_192)(encode_basestring_ascii)  # model and worker names, which repeat
_DROP = "DELETE FROM bookings WHERE number IN (SELECT value FROM json_each(?))"


Living = tuple[str, int, Booking]
"""Model, life and a booking to store, replacing what was stored under its number.

The life is its worker's incarnation; 0 for any, if a file names the worker.
"""


class End(NamedTuple):
    """How an attempt ended; `number` is its booking's, 0 if it had none.

    `until` is when to forget it, in seconds of the caller's clock.
    """

    number: int
    model: str
    request_id: str
    attempt: int
    how: str
    worker_id: str
    until: float


class KeptBooking(NamedTuple):
    """A booking as stored; fields not described here are the booking's own.

    Attributes
    ----------
    life : int
        As in `Living`.
    expires : float
        Unix seconds.
    reason : str
        Its name.
    targets : list of str
        The chosen worker and the alternates.
    """

    number: int
    model: str
    life: int
    expires: float
    reason: str
    targets: list[str]
    counts: Counts | None
    request_id: str
    attempt: int
    lease_id: str
    num_sequences: int
    prompt_tokens: int
    expected_output_tokens: int
    fingerprint: int
    lease_seconds: float
    policy: str
    partition_version: int
    similarity: float | None
    coverage: float
    stale: int
    slot: int
    top_k: int
    awaits_signature: int
    seen_running: int
    source: int


class BookingStore:
    """Writes and reads what a router knows about bookings.

    Parameters
    ----------
    store : SqliteStore
    """

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    def write(
        self, living: Iterable[Living], ends: Sequence[End], clock: float, afresh: bool = False
    ) -> None:
        """Write everything in one transaction, living bookings first.

        Parameters
        ----------
        living, ends
        clock : float
            Unix time at which the clock of deadlines was 0.
        afresh : bool
            Whether to replace everything stored.

        Raises
        ------
        StoreError
            Nothing was written.
        """
        kept = [row_of(model, life, booking, clock) for model, life, booking in living]
        with self._store.transaction() as execute:
            if afresh:
                execute("DELETE FROM bookings")
                execute("DELETE FROM ends")
            if kept:
                execute(_KEEP, (f"[{','.join(kept)}]",))
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
        """All bookings, in order of creation; loaded in parts."""
        number = -1
        while rows := self._store.read(
            "SELECT number, record FROM bookings WHERE number > ? ORDER BY number LIMIT ?",
            (number, READ_AT_ONCE),
        ):
            with self._damage_said():
                text = f"[{','.join([record for _, record in rows])}]"
                part = [_kept(row) for row in from_json(text)]
            yield from part
            number = rows[-1][0]

    def last_number(self) -> int:
        """The highest number of a living booking; 0 if there is none."""
        ((number,),) = self._store.read("SELECT coalesce(max(number), 0) FROM bookings")
        return int(number)

    def ends(self, unix_seconds: float) -> Iterator[End]:
        """The ends to be remembered beyond that time, oldest first; in Unix seconds."""
        rows = self._store.read(
            "SELECT records FROM ends WHERE until > ? ORDER BY place", (unix_seconds,)
        )
        with self._damage_said():
            for (records,) in rows:
                for record in json.loads(records):
                    if (end := End._make((0, *record))).until > unix_seconds:
                        yield end

    @contextmanager
    def _damage_said(self) -> Iterator[None]:
        """Fail the start on a row that cannot be read: bookings are not dropped silently."""
        try:
            yield
        except (ValueError, TypeError) as error:
            raise StoreError(f"{self._store.damaged()} ({error})") from error


def kept_of(row: str | bytes) -> KeptBooking:
    """The inverse of `row_of`."""
    return _kept(json.loads(row))


def _kept(row: list[Any]) -> KeptBooking:
    kept = KeptBooking._make((*row, 0)[: len(KeptBooking._fields)])  # older ones: no source
    return kept._replace(counts=counts_of(row[6])) if row[6] else kept


def row_of(model: str, life: int, b: Booking, clock: float) -> str:
    """A booking as JSON, for `kept_of`; formatted by hand, which takes half the time.

    `clock` is the Unix time at which the clock of its deadlines was 0.
    """
    targets = ",".join([_known(spec.worker_id) for spec in b.targets])
    known = b.counts
    counts = "null" if known is None else json.dumps(text_of(known))
    similarity = "null" if b.similarity is None else repr(float(b.similarity))
    return (
        f"[{b.number},{_known(model)},{life},{b.expires_at + clock!r},{_known(b.reason.name)},"
        f"[{targets}],{counts},{_quoted(b.request_id)},{b.attempt},"
        f"{_quoted(b.lease_id)},{b.num_sequences},{b.prompt_tokens},{b.expected_output_tokens},"
        f"{b.fingerprint},{float(b.lease_seconds)!r},{_known(b.policy)},{b.partition_version},"
        f"{similarity},{float(b.coverage)!r},{b.stale:d},{b.slot},{b.top_k},"
        f"{b.awaits_signature:d},{b.seen_running:d},{b.source:d}]"
    )


def text_of(counts: Counts) -> tuple[int, int, str, str]:
    """Shape, type and bytes, in the narrowest type that fits."""
    narrow = counts.astype(np.min_scalar_type(counts.max(initial=0)))
    layers, experts = counts.shape
    return layers, experts, narrow.dtype.str, base64.b64encode(narrow.tobytes()).decode()


def counts_of(text: tuple[int, int, str, str] | None) -> Counts | None:
    """The inverse of `text_of`; None for None."""
    if text is None:
        return None
    layers, experts, kind, data = text
    counts = np.frombuffer(base64.b64decode(data), kind).reshape(layers, experts)
    return counts.astype(np.uint16) if counts.itemsize <= 2 else counts.astype(np.uint32)
