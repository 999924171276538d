"""What a replica asks of the shared state: an operation is its kind and its fields, in order.

`commit.lua` says what each means and what it answers; what is taken in comes back to all replicas
as a change with the same fields.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from eldr_service.core.activation import Counts
from eldr_service.core.booking import Booking
from eldr_service.core.capture import CaptureState, CaptureStatus
from eldr_service.core.ends import Ended
from eldr_service.core.worker import LoadReport, WorkerState
from eldr_service.stores.bookings import counts_of, text_of

Field = str | int | bytes
Operation = tuple[Field, ...]
Key = tuple[str, int]
"""Request and attempt."""

NO_LEASE = "-"
"""An end with it is remembered, and ends no booking: the attempt may have been placed again."""


class Result(NamedTuple):
    """What became of an operation: "ok", or why not; and what is to be known of it."""

    word: str
    told: tuple[bytes, ...] = ()


class Change(NamedTuple):
    """What a replica did, as all replicas are told of it in the same order."""

    position: str
    replica: str
    kind: str
    fields: tuple[bytes, ...]

    def texts(self) -> tuple[str, ...]:
        """The fields, where all are text."""
        return tuple(field.decode() for field in self.fields)


def place(
    model: str, booking: Booking, *, life: int, capacity: int, known: int | None, left: float,
    settled: bool, row: str,
) -> Operation:  # fmt: skip
    """Book a request.

    `settled` where its caller has had the answer; `known` are the sequences on the worker that the
    decision knew of, or None if it stands whatever others have booked there.
    """
    return (
        "place", model, booking.request_id, booking.attempt, booking.lease_id, booking.worker_id,
        life, booking.num_sequences, capacity, "" if known is None else known, milliseconds(left),
        "1" if settled else "", row,
    )  # fmt: skip


def end(
    model: str, request_id: str, attempt: int, lease_id: str, how: Ended, worker_id: str,
    told: str = "",
) -> Operation:  # fmt: skip
    """End a booking; without a lease, release whatever there is of the attempt.

    `told` is what its release reported, as `told_of` writes it.
    """
    return "end", model, request_id, attempt, lease_id, how.name, worker_id, told


def told_of(output_tokens: int, decode_seconds: float, counts: Counts | None) -> str:
    """What a release reports of its request, for the replicas that have the booking."""
    text = None if counts is None else text_of(counts)
    return json.dumps([output_tokens, decode_seconds, text])


def take_reported(booking: Booking, reported: bytes) -> None:
    """Put what a release reported into its booking."""
    if reported:
        booking.output_tokens, booking.decode_seconds, counts = json.loads(reported)
        booking.decode_counts = counts_of(counts)


def report(
    model: str, worker_id: str, life: int, taken: LoadReport, left_out: Sequence[Key]
) -> Operation:
    """Tell what a worker said of itself; the requests it holds are settled by who heard it.

    `left_out` are those that it listed before, and does not now; where they are many, the same
    report is told again with others.
    """
    said: dict[str, Any] = {**asdict(taken), "held": left_out, "state": taken.state.name}
    if taken.capture:
        said["capture"] = {**asdict(taken.capture), "state": taken.capture.state.name}
    return "report", model, worker_id, life, json.dumps(said)


def reported(text: bytes) -> tuple[LoadReport, list[Key]]:
    """Read what `report` wrote: what the worker said, and what it left out."""
    said: Mapping[str, Any] = json.loads(text)
    capture = said["capture"]
    if capture:
        capture = CaptureStatus(**{**capture, "state": CaptureState[capture["state"]]})
    state = WorkerState[said["state"]]
    left_out = [(request_id, attempt) for request_id, attempt in said["held"]]
    return LoadReport(**{**said, "held": (), "state": state, "capture": capture}), left_out


def milliseconds(seconds: float) -> int:
    """At least 0."""
    return max(0, round(seconds * 1e3))
