"""Operations of a replica on the shared state: a kind and its fields, in order.

`commit.lua` defines what each does and returns; accepted operations come back to all replicas as
changes with the same fields.
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
"""An end of this kind is remembered without ending a booking: the attempt may be placed again."""


class Result(NamedTuple):
    """The result of an operation: "ok", or why not, and details."""

    word: str
    told: tuple[bytes, ...] = ()


class Change(NamedTuple):
    """What a replica did, as told to all replicas in the same order."""

    position: str
    replica: str
    kind: str
    fields: tuple[bytes, ...]

    def texts(self) -> tuple[str, ...]:
        """The fields, if all are text."""
        return tuple(field.decode() for field in self.fields)


def place(
    model: str, booking: Booking, *, life: int, capacity: int, known: int | None, left: float,
    settled: bool, row: str,
) -> Operation:  # fmt: skip
    """Book a request.

    `settled` if its caller has the answer; `known` are the worker's sequences that the decision
    knew of, or None if it stands whatever others have booked there.
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
    """End a booking; without a lease, release whatever the attempt has.

    `told` is what its release reported, from `told_of`.
    """
    return "end", model, request_id, attempt, lease_id, how.name, worker_id, told


def told_of(output_tokens: int, decode_seconds: float, counts: Counts | None) -> str:
    """What a release reports, for the replicas that have the booking."""
    text = None if counts is None else text_of(counts)
    return json.dumps([output_tokens, decode_seconds, text])


def take_reported(booking: Booking, reported: bytes) -> None:
    """Apply a release's report to its booking."""
    if reported:
        booking.output_tokens, booking.decode_seconds, counts = json.loads(reported)
        booking.decode_counts = counts_of(counts)


def report(
    model: str, worker_id: str, life: int, taken: LoadReport, left_out: Sequence[Key]
) -> Operation:
    """Publish a worker's report; its listed requests are handled by the replica that received it.

    `left_out` are those that it listed before, and no longer does; if they are many, the same
    report is published again with the others.
    """
    said: dict[str, Any] = {**asdict(taken), "held": left_out, "state": taken.state.name}
    if taken.capture:
        said["capture"] = {**asdict(taken.capture), "state": taken.capture.state.name}
    return "report", model, worker_id, life, json.dumps(said)


def reported(text: bytes) -> tuple[LoadReport, list[Key]]:
    """Read what `report` wrote: the report, and the requests it no longer lists."""
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
