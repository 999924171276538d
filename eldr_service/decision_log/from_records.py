"""Converts records to the domain."""

from eldr.v1 import decision_log_pb2 as pb

from eldr_service.core.booking import Booking
from eldr_service.core.ends import Ended
from eldr_service.core.worker import LoadReport, WorkerRole, WorkerSpec
from eldr_service.decision_log import counts
from eldr_service.routing.call import Known, RouteCall


def worker_spec(message: pb.LogWorker) -> WorkerSpec:
    """A worker's registration, without its address."""
    return WorkerSpec(
        message.worker_id,
        WorkerRole(message.role),
        group=message.group,
        labels=dict(message.labels),
        capacity_sequences=message.capacity_sequences,
        capacity_kv_tokens=message.capacity_kv_tokens,
    )


def placement(message: pb.LogPlacement, model: str) -> tuple[RouteCall, Known]:
    """What a decision saw of its request."""
    call = RouteCall(
        model=model,
        request_id=message.request_id,
        attempt=message.attempt,
        num_sequences=message.num_sequences,
        prompt_tokens=message.prompt_tokens,
        expected_output_tokens=message.expected_output_tokens,
        candidate_workers=frozenset(message.candidate_workers),
        exclude_workers=frozenset(message.exclude_workers),
        worker_selector=dict(message.worker_selector),
        pinned_worker=message.pinned_worker,
        labels=dict(message.labels),
    )
    known, top_k = counts.from_record(message.counts) if message.HasField("counts") else (None, 0)
    return call, Known(
        counts=known,
        top_k=top_k,
        coverage=message.coverage,
        group=message.group,
        earlier=message.earlier,
        awaits_signature=message.awaits_signature,
        declared=not message.no_geometry,
        other_groups=message.other_groups,
        cached_tokens=dict(message.cached_tokens),
    )


def end(message: pb.LogEnd, booking: Booking) -> Ended:
    """How a booking ended; what its release reported is set on it."""
    booking.output_tokens = message.output_tokens
    booking.decode_seconds = message.decode_seconds
    if message.HasField("decode_counts"):
        booking.decode_counts, _ = counts.from_record(message.decode_counts)
    return Ended[pb.LogEndKind.Name(message.kind).removeprefix("LOG_END_KIND_")]


def report(message: pb.LogReport) -> LoadReport:
    """A worker's report."""
    return LoadReport(
        incarnation=message.incarnation,
        number=message.number,
        running_sequences=message.running_sequences,
        waiting_sequences=message.waiting_sequences,
        kv_tokens_used=message.kv_tokens_used,
        kv_tokens_total=message.kv_tokens_total,
        foreign_sequences=message.foreign_sequences,
        active_experts=message.active_experts,
        batch_size=message.batch_size,
        step_seconds=message.step_seconds,
        step_active_experts=message.step_active_experts,
    )
