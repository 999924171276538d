"""Converts the domain to records. Called in the writer's thread, on immutable data only."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from eldr.v1 import activation_pb2
from eldr.v1 import decision_log_pb2 as pb
from numpy.typing import NDArray

from eldr_service.core.decision import Reason
from eldr_service.core.ends import Ended
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.partition import Partition
from eldr_service.core.worker import Avoidance, LoadReport, WorkerSpec, WorkerState
from eldr_service.decision_log import counts
from eldr_service.decision_log.counts import Kept
from eldr_service.policies.policy import Policy
from eldr_service.policies.registry import parameters_of
from eldr_service.policies.state import PolicyState
from eldr_service.routing.call import Known, RouteCall
from eldr_service.stores.partition_file import dump_partition

FORMAT = 1


def header(run: str, file: int, lost: int, version: str, report_limit: float) -> pb.LogRecord:
    """The beginning of a file."""
    message = pb.LogHeader(
        format=FORMAT, run=run, file=file, lost=lost, version=version, report_limit=report_limit
    )
    message.begun.FromNanoseconds(time.time_ns())
    return pb.LogRecord(header=message)


def appeared(
    number: int,
    name: str,
    policy: Policy,
    decisions: int = 0,
    geometry: ModelGeometry | None = None,
    partition: Partition | None = None,
    slots: Sequence[tuple[Sequence[int], int]] = (),
) -> pb.LogRecord:
    """A model; for each slot the rows bound to it and its placements."""
    message = pb.LogModel(
        name=name,
        number=number,
        policy=_policy(policy),
        decisions=decisions,
        partition=dump_partition(partition) if partition else b"",
        slots=[pb.LogSlot(rows=rows, placements=placements) for rows, placements in slots],
    )
    if geometry:
        message.geometry.CopyFrom(
            activation_pb2.ModelGeometry(
                num_layers=geometry.num_layers,
                num_experts=geometry.num_experts,
                top_k=geometry.top_k,
            )
        )
    return pb.LogRecord(model=number, appeared=message)


def worker(
    model: int,
    seconds: float,
    row: int,
    spec: WorkerSpec,
    state: WorkerState,
    incarnation: int,
    numbers: Mapping[str, float] | None = None,
    same_life: bool = False,
) -> pb.LogRecord:
    """A worker that began a life, with its row's numbers; or one that changed in the same life."""
    message = pb.LogWorker(
        row=row,
        worker_id=spec.worker_id,
        role=int(spec.role),  # type: ignore[arg-type]
        group=spec.group,
        labels=spec.labels,
        capacity_sequences=spec.capacity_sequences,
        capacity_kv_tokens=spec.capacity_kv_tokens,
        state=int(state),  # type: ignore[arg-type]
        incarnation=incarnation,
        numbers=numbers,
        same_life=same_life,
    )
    return pb.LogRecord(model=model, seconds=seconds, worker=message)


def placement(
    model: int,
    seconds: float,
    call: RouteCall,
    known: Known,
    kept: Kept | None,
    row: int,
    reason: Reason,
) -> pb.LogRecord:
    """A decision; `kept` are the known counts."""
    record = pb.LogRecord(model=model, seconds=seconds)
    message = record.placement  # filled in place: this runs for every request
    message.request_id = call.request_id
    message.attempt = call.attempt
    message.num_sequences = call.num_sequences
    message.prompt_tokens = call.prompt_tokens
    message.expected_output_tokens = call.expected_output_tokens
    counts.to_record(kept, message.counts)
    message.coverage = known.coverage
    message.awaits_signature = known.awaits_signature
    message.no_geometry = not known.declared
    message.other_groups = known.other_groups
    message.cached_tokens.update(known.cached_tokens)
    message.group = known.group
    message.earlier = known.earlier
    message.candidate_workers.extend(call.candidate_workers)
    message.exclude_workers.extend(call.exclude_workers)
    message.worker_selector.update(call.worker_selector)
    message.pinned_worker = call.pinned_worker
    message.labels.update(call.labels)
    message.row = row
    message.reason = reason.value  # type: ignore[assignment]
    return record


def end(
    model: int, seconds: float, request_id: str, how: Ended, tokens: int, took: float,
    decode: Kept | None,
) -> pb.LogRecord:  # fmt: skip
    """The end of a booking."""
    message = pb.LogEnd(
        request_id=request_id,
        kind=f"LOG_END_KIND_{how.name}",
        output_tokens=tokens,
        decode_seconds=took,
    )
    counts.to_record(decode, message.decode_counts)
    return pb.LogRecord(model=model, seconds=seconds, end=message)


def completed(model: int, request_id: str, coverage: float, kept: Kept) -> pb.LogRecord:
    """A booking that has its complete signature."""
    message = pb.LogCompleted(request_id=request_id, coverage=coverage)
    counts.to_record(kept, message.counts)
    return pb.LogRecord(model=model, completed=message)


def running(model: int, request_id: str) -> pb.LogRecord:
    """A booking that its worker has begun."""
    return pb.LogRecord(model=model, running=pb.LogRunning(request_id=request_id))


def report(model: int, seconds: float, row: int, report: LoadReport) -> pb.LogRecord:
    """A worker's report."""
    message = pb.LogReport(
        row=row,
        incarnation=report.incarnation,
        number=report.number,
        running_sequences=report.running_sequences,
        waiting_sequences=report.waiting_sequences,
        kv_tokens_used=report.kv_tokens_used,
        kv_tokens_total=report.kv_tokens_total,
        foreign_sequences=report.foreign_sequences,
        active_experts=report.active_experts,
        batch_size=report.batch_size,
        step_seconds=report.step_seconds,
        step_active_experts=report.step_active_experts,
    )
    return pb.LogRecord(model=model, seconds=seconds, report=message)


def move(model: int, row: int, state: WorkerState) -> pb.LogRecord:
    """A worker's state change."""
    message = pb.LogMove(row=row, state=int(state))  # type: ignore[arg-type]
    return pb.LogRecord(model=model, move=message)


def standing(model: int, row: int, avoidance: Avoidance, relief: float) -> pb.LogRecord:
    """A worker's standing."""
    message = pb.LogStanding(row=row, avoidance=int(avoidance), relief=relief)  # type: ignore[arg-type]
    return pb.LogRecord(model=model, standing=message)


def partition(model: int, partition: Partition, wishes: Mapping[str, int]) -> pb.LogRecord:
    """A partition that was put in force."""
    message = pb.LogPartition(data=dump_partition(partition), wishes=wishes)
    return pb.LogRecord(model=model, partition=message)


def policy(model: int, policy: Policy, learned: PolicyState) -> pb.LogRecord:
    """A policy that was put in force, and what it started with."""
    message = _policy(policy)
    message.learned.extend(array(name, of) for name, of in learned.items())
    return pb.LogRecord(model=model, policy=message)


def array(name: str, of: NDArray[Any]) -> pb.LogArray:
    """An array of a policy's state or learned data."""
    return pb.LogArray(name=name, dtype=of.dtype.str, shape=of.shape, data=of.tobytes())


def forgotten(model: int) -> pb.LogRecord:
    """A model that was forgotten."""
    return pb.LogRecord(model=model, forgotten=pb.LogForgotten())


def _policy(policy: Policy) -> pb.LogPolicy:
    return pb.LogPolicy(name=policy.name, parameters=parameters_of(policy))
