"""A snapshot: everything in a model that decisions depend on, at the start of a file."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import structlog
from eldr.v1 import decision_log_pb2 as pb
from numpy.typing import NDArray

from eldr_service.core.bindings import Bindings
from eldr_service.core.booking import Booking
from eldr_service.core.decision import Reason
from eldr_service.core.errors import FailedPreconditionError
from eldr_service.decision_log import counts, from_records, to_records
from eldr_service.decision_log.counts import Kept
from eldr_service.decision_log.writer import Make
from eldr_service.policies.policy import Policy
from eldr_service.policies.state import PolicyState
from eldr_service.routing.model import Model
from eldr_service.stores.partition_file import load_partition

log = structlog.get_logger(__name__)

# Written


def records_of(number: int, model: Model) -> list[Make]:
    """Everything in a model that decisions depend on, as records made from immutable data."""
    bindings, fleet = model.bindings, model.fleet
    slots = (
        [(bindings.workers(slot), placed) for slot, placed in enumerate(bindings.placements)]
        if bindings
        else ()
    )
    records: list[Make] = [
        partial(
            to_records.appeared, number, model.name, model.policy, model.decisions, model.geometry,
            model.partition, slots,
        )
    ]  # fmt: skip
    for row in fleet.rows():
        state, life = fleet.state(row), fleet.incarnation(row)
        records.append(
            partial(
                to_records.worker, number, 0.0, row, fleet.spec(row), state, life, fleet.record(row)
            )
        )
    for name, array in _state(model).items():
        records.append(partial(_policy_state, number, name, array))
    return records + [
        partial(_booking, number, booking, booking.seen_running) for booking in model.bookings
    ]


def _state(model: Model) -> PolicyState:
    try:
        return model.policy.state()
    except Exception:  # a policy may be foreign code; a replay then uses the bookings
        log.exception("policy failed", model=model.name, policy=model.policy.name)
        return {}


def _policy_state(model: int, name: str, array: NDArray[Any]) -> pb.LogRecord:
    """One array of a policy's state."""
    return pb.LogRecord(model=model, policy_state=to_records.array(name, array))


def _booking(model: int, booking: Booking, running: bool) -> pb.LogRecord:
    """A living booking."""
    message = pb.LogBooking(
        request_id=booking.request_id,
        attempt=booking.attempt,
        row=booking.row,
        generation=booking.generation,
        num_sequences=booking.num_sequences,
        prompt_tokens=booking.prompt_tokens,
        expected_output_tokens=booking.expected_output_tokens,
        slot=booking.slot,
        coverage=booking.coverage,
        running=running,
        awaits_signature=booking.awaits_signature,
    )
    if booking.counts is not None:
        counts.to_record(Kept(booking.counts, booking.top_k), message.counts)
    return pb.LogRecord(model=model, booking=message)


def end() -> pb.LogRecord:
    """The end of a snapshot."""
    return pb.LogRecord(snapshot_end=pb.LogSnapshotEnd())


# Read


def restore_partition(model: Model, message: pb.LogModel) -> None:
    """Put the partition in force, if there was one, with the rows bound to its slots."""
    if message.partition:
        model.activate(load_partition(message.partition), {})
        model.bindings = Bindings.restored([(slot.rows, slot.placements) for slot in message.slots])


def restore_worker(model: Model, message: pb.LogWorker) -> None:
    """Restore a worker as it was."""
    model.fleet.restore(message.row, from_records.worker_spec(message), message.numbers)


def array(message: pb.LogArray) -> NDArray[np.generic]:
    """An array of a policy's state; read-only."""
    return np.frombuffer(message.data, np.dtype(message.dtype)).reshape(tuple(message.shape))


def restore_booking(model: Model, message: pb.LogBooking, policy: str) -> Booking:
    """Restore a living booking made under this policy; its lease never expires by itself."""
    known, top_k = counts.from_record(message.counts) if message.HasField("counts") else (None, 0)
    booking = Booking(
        request_id=message.request_id,
        attempt=message.attempt,
        lease_id="",
        row=message.row,
        generation=message.generation,
        worker_id=model.fleet.spec(message.row).worker_id,
        num_sequences=message.num_sequences,
        prompt_tokens=message.prompt_tokens,
        expected_output_tokens=message.expected_output_tokens,
        fingerprint=0,
        lease_seconds=np.inf,
        expires_at=np.inf,
        reason=Reason.POLICY,  # no longer read
        policy=policy,
        coverage=message.coverage,
        slot=message.slot,
        kept=known,
        top_k=top_k,
        awaits_signature=message.awaits_signature,
        seen_running=message.running,
    )
    model.bookings.add(booking)
    return booking


def restore_policy(policy: Policy, state: Mapping[str, NDArray[np.generic]]) -> None:
    """Restore a policy's state from one of its name.

    Raises
    ------
    FailedPreconditionError
        The state is from another version of the policy.
    """
    try:
        policy.restore(state)
    except (KeyError, ValueError, TypeError) as error:
        raise FailedPreconditionError(
            f"the log has a state of {policy.name} that this version cannot restore: {error!r}"
        ) from error
