"""Converts the domain to messages."""

import time
from collections.abc import Iterable
from math import inf

from eldr.v1 import activation_pb2, fleet_pb2, partition_pb2, policy_pb2, router_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from eldr_service.core.decision import Reason
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.partition import Partition
from eldr_service.core.worker import WorkerState
from eldr_service.policies.policy import Policy
from eldr_service.policies.registry import InstalledPolicy, parameters_of
from eldr_service.refits.refits import RefitStatus
from eldr_service.routing.explanations import Explanation
from eldr_service.routing.model import Model
from eldr_service.routing.moves import Proposal
from eldr_service.routing.place import Placed
from eldr_service.routing.why import WorkerScore, number_at

_REASONS = {
    reason: router_pb2.PlacementReason.Value(f"PLACEMENT_REASON_{reason.name}") for reason in Reason
}


def duration(seconds: float) -> Duration:
    """A duration."""
    message = Duration()
    _set(message, seconds)
    return message


def timestamp(unix_seconds: float) -> Timestamp:
    """A moment."""
    message = Timestamp()
    _set(message, unix_seconds)
    return message


def _set(message: Duration | Timestamp, seconds: float) -> None:
    message.seconds, message.nanos = divmod(round(seconds * 1e9), 1_000_000_000)


def geometry(shape: ModelGeometry) -> activation_pb2.ModelGeometry:
    """A model's geometry."""
    return activation_pb2.ModelGeometry(
        num_layers=shape.num_layers, num_experts=shape.num_experts, top_k=shape.top_k
    )


def write_placement(message: router_pb2.Placement, placed: Placed, now: float) -> None:
    """Write an answer to Route into its place in a response."""
    booking = placed.booking
    chosen, *others = booking.targets
    message.worker_id = chosen.worker_id
    message.url = chosen.url
    message.dp_rank = chosen.dp_rank
    for spec in others:
        message.alternates.add(worker_id=spec.worker_id, url=spec.url, dp_rank=spec.dp_rank)
    message.reason = _REASONS[booking.reason]
    message.repeated = placed.repeated
    message.stale = booking.stale
    message.policy = booking.policy
    message.partition_version = booking.partition_version
    message.coverage = booking.known_coverage
    message.early = booking.early
    message.signature_source = int(booking.source)  # type: ignore[assignment]
    if booking.similarity is not None:
        message.similarity = booking.similarity
    if booking.lease_id:
        message.lease_id = booking.lease_id
        _write_lease(message, booking.expires_at - now)
    if placed.scores:
        message.rule = placed.rule
        _write_scores(message, placed.scores)


def _write_scores(message: router_pb2.Placement, scores: Iterable[WorkerScore]) -> None:
    for score in scores:
        age = score.report_age
        message.scores.add(
            worker_id=score.worker_id,
            eligible=not score.ineligible_reason,
            ineligible_reason=score.ineligible_reason,
            similarity=score.similarity,
            load=score.load,
            in_band=score.in_band,
            predicted_active_experts=score.predicted_active_experts,
            cost=score.cost,
            report_age=None if age is None else duration(age),
            stale=score.stale,
            cached_tokens=score.cached_tokens,
        )


def move(model: str, proposal: Proposal) -> router_pb2.WatchMovesResponse:
    """A proposed move."""
    booking, target = proposal.booking, proposal.target
    return router_pb2.WatchMovesResponse(
        model=model,
        request_id=booking.request_id,
        attempt=booking.attempt,
        worker_id=booking.worker_id,
        target=router_pb2.WorkerTarget(
            worker_id=target.worker_id, url=target.url, dp_rank=target.dp_rank
        ),
        gain=duration(proposal.gain_seconds),
    )


def explanation(model: str, found: Explanation, now: float) -> router_pb2.ExplainResponse:
    """A decision that was made, and what became of it."""
    fleet, _, decision = found.basis
    booking = found.booking
    message = router_pb2.ExplainResponse(
        model=model,
        request_id=found.request_id,
        attempt=found.attempt,
        age=duration(now - found.decided_at),
        policy_parameters=found.parameters,
        known_tokens=found.known_tokens,
        prompt_tokens=found.prompt_tokens,
        state=f"BOOKING_STATE_{'LIVE' if booking else 'ENDED' if found.ended else 'UNSPECIFIED'}",
        ended=found.ended,
        running=bool(booking and booking.seen_running),
        decisions_kept=found.decisions_kept,
    )
    placement = message.placement
    placement.worker_id = fleet.worker_ids[decision.worker]
    placement.reason = _REASONS[decision.reason]
    placement.stale = found.stale
    placement.policy = found.policy
    placement.partition_version = found.partition_version
    placement.coverage = 0.0 if found.source.is_predicted else found.coverage
    placement.early = found.early
    placement.signature_source = int(found.source)  # type: ignore[assignment]
    placement.rule = found.rule
    if (similarity := number_at(decision.similarity, decision.worker)) is not None:
        placement.similarity = similarity
    if booking:
        placement.lease_id = booking.lease_id
        _write_lease(placement, booking.expires_at - now)
    _write_scores(placement, found.scores)
    return message


def _write_lease(placement: router_pb2.Placement, remaining: float) -> None:
    _set(placement.lease_remaining, remaining)
    _set(placement.lease_expire_time, time.time() + remaining)


def worker(
    model: Model, row: int, now: float, state: WorkerState | None = None
) -> fleet_pb2.Worker:
    """A worker as the daemon sees it, or with the state that it is about to have."""
    spec, numbers = model.fleet.spec(row), model.fleet.record(row)
    state = state or model.fleet.state(row)
    message = fleet_pb2.Worker(
        model=model.name,
        worker_id=spec.worker_id,
        role=f"WORKER_ROLE_{spec.role.name}",
        url=spec.url,
        dp_rank=spec.dp_rank,
        group=spec.group,
        labels=spec.labels,
        capacity=fleet_pb2.WorkerCapacity(
            sequences=spec.capacity_sequences, kv_tokens=int(numbers["capacity_kv"])
        ),
        state=f"WORKER_STATE_{state.name}",
        incarnation=model.fleet.incarnation(row),
        booked_sequences=int(numbers["booked_sequences"]),
        foreign_sequences=int(numbers["foreign"]),
        load=model.fleet.load(row, now),
        slot=model.bindings.slot_of.get(row) if model.bindings else None,
        active_experts=numbers["active_experts"],
        batch_size=numbers["batch_size"],
        pace=numbers["pace"],
        drained=model.is_drained(row),
    )
    avoidance, message.relief = model.fleet.standing(row)
    message.avoidance = int(avoidance)  # type: ignore[assignment]
    if (left := numbers["held_down_until"] - now) > 0:
        message.hold_down.CopyFrom(duration(left))
    if (drain := model.drains.of(row)) and drain.until < inf:
        message.drain_remaining.CopyFrom(duration(max(0.0, drain.until - now)))
    if capture := model.fleet.capture(row):
        message.capture.CopyFrom(
            fleet_pb2.CaptureStatus(
                state=f"CAPTURE_STATE_{capture.state.name}",
                reason=capture.reason,
                known_tokens=capture.known_tokens,
                unknown_tokens=capture.unknown_tokens,
                software=capture.software,
            )
        )
    if numbers["report_number"] >= 0:
        age = now - numbers["reported_at"]
        message.report_age.CopyFrom(duration(age))
        message.report_time.CopyFrom(timestamp(time.time() - age))
        message.stale = not model.fleet.fresh(row, now)
        message.step_time.CopyFrom(duration(numbers["step_seconds"]))
    return message


def partition_info(partition: Partition, model: Model) -> partition_pb2.PartitionInfo:
    """A partition, and if it is active, the workers bound to its slots."""
    transform = partition.transform
    assert transform.layers is not None
    active = model.partition is not None and model.partition.version == partition.version
    every_layer = len(transform.layers) == partition.geometry.num_layers
    message = partition_pb2.PartitionInfo(
        model=partition.model,
        version=partition.version,
        active=active,
        geometry=geometry(partition.geometry),
        num_slots=partition.num_slots,
        transform=transform.name,
        layers=[] if every_layer else transform.layers.tolist(),
        metadata=partition.metadata,
        create_time=timestamp(partition.created),
    )
    if active and model.bindings:
        for slot in range(partition.num_slots):
            message.bindings.add(
                slot=slot,
                worker_ids=[model.fleet.spec(r).worker_id for r in model.bindings.workers(slot)],
                placements=model.bindings.placements[slot],
            )
    return message


def refit_status(model: Model, status: RefitStatus) -> partition_pb2.RefitStatus:
    """The state of a model's refits."""
    return partition_pb2.RefitStatus(
        model=model.name,
        mode=f"REFIT_MODE_{status.mode.name}",
        window_signatures=len(model.recent),
        drift=model.drift or 0.0,
        running=status.running,
        last_outcome=status.last,
        held=duration(status.held_seconds),
    )


def policy_info(policy: InstalledPolicy) -> policy_pb2.PolicyInfo:
    """An installed policy; a broken one says so in its description."""
    message = policy_pb2.PolicyInfo(
        name=policy.name,
        description=f"broken: {policy.error}" if policy.error else policy.description,
        distribution=policy.distribution,
    )
    for parameter in policy.parameters:
        message.parameters.add(
            name=parameter.name,
            description=f"{parameter.description} ({parameter.allowed})",
            default_value=parameter.default,
        )
    return message


def active_policy(model: str, policy: Policy) -> policy_pb2.ActivePolicy:
    """The policy in force for a model."""
    return policy_pb2.ActivePolicy(model=model, name=policy.name, parameters=parameters_of(policy))
