"""Builds the contract's messages from plain Python values."""

import datetime
import logging
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict, Unpack

from eldr.v1.activation_pb2 import ActivationCounts
from eldr.v1.router_pb2 import ReleaseOutcome as ReleaseOutcomeNumber
from eldr.v1.router_pb2 import ReleaseRequest, RouteRequest, StreamSignaturesRequest
from google.protobuf.duration_pb2 import Duration

from eldr_client.counts import AnyCounts, as_message
from eldr_client.placement import HeldPlacement, ReleaseOutcome

logger = logging.getLogger("eldr_client")

Seconds = float | datetime.timedelta


class RouteFields(TypedDict, total=False):
    """Optional fields of a Route beside model, request_id and counts; see RouteRequest."""

    attempt: int
    wait_for_signature: Seconds
    num_sequences: int
    prompt_tokens: int
    expected_output_tokens: int
    prefill_worker: str
    candidate_workers: Iterable[str]
    exclude_workers: Iterable[str]
    worker_selector: Mapping[str, str]
    pinned_worker: str
    dry_run: bool
    explain: bool
    lease_ttl: Seconds
    labels: Mapping[str, str]
    max_wait: Seconds
    priority: int
    session: str
    prefix_hashes: Iterable[int]
    cached_tokens: Mapping[str, int]
    prefix_block_tokens: int
    movable: bool


_WAITS = ("wait_for_signature", "max_wait")  # one after the other
_DURATIONS = {*_WAITS, "lease_ttl"}


class ChunkFields(TypedDict, total=False):
    """Optional fields of a chunk beside its counts and `last`; see RegisterSignatureRequest."""

    epoch: int
    sequence: int
    total_chunks: int
    prefill_worker: str
    prompt_tokens: int


def duration(seconds: Seconds) -> Duration:
    """Convert seconds or a timedelta to the contract's Duration."""
    if isinstance(seconds, datetime.timedelta):
        seconds = seconds.total_seconds()
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def route_request(
    model: str,
    request_id: str,
    counts: ActivationCounts | None,
    **fields: Unpack[RouteFields],
) -> RouteRequest:
    """Build a RouteRequest. Raises TypeError for a keyword that is not one of its fields."""
    if unknown := fields.keys() - RouteFields.__annotations__.keys():
        raise TypeError(f"route has no keyword {', '.join(sorted(unknown))}")
    values: dict[str, Any] = {
        name: duration(value) if name in _DURATIONS else value  # type: ignore[arg-type]
        for name, value in fields.items()
    }
    return RouteRequest(model=model, request_id=request_id, counts=counts, **values)


def waits(request: Any) -> float:
    """Seconds that the router may wait before it answers: for the signature, and for a place."""
    route = _route_of(request)
    return sum(_seconds(route, name) for name in _WAITS) if route else 0.0


def having_waited(request: Any, passed: float) -> Any:
    """A copy with the waits that are left after `passed` seconds."""
    later = type(request)()
    later.CopyFrom(request)
    route = _route_of(later)
    for name in _WAITS if route else ():
        wait = _seconds(route, name)
        if wait:
            getattr(route, name).CopyFrom(duration(max(wait - passed, 0.0)))
            passed = max(passed - wait, 0.0)
    return later


def release_request(
    model: str,
    request_id: str,
    *,
    attempt: int = 0,
    lease_id: str = "",
    outcome: ReleaseOutcome | str = ReleaseOutcome.COMPLETED,
    output_tokens: int = 0,
    decode_duration: Seconds | None = None,
    decode_counts: AnyCounts | None = None,
    top_k: int | None = None,
) -> ReleaseRequest:
    """Build a ReleaseRequest. Raises ValueError for an unknown outcome or invalid counts."""
    return ReleaseRequest(
        model=model,
        request_id=request_id,
        attempt=attempt,
        lease_id=lease_id,
        outcome=ReleaseOutcomeNumber.Value(f"RELEASE_OUTCOME_{ReleaseOutcome(outcome)}"),
        output_tokens=output_tokens,
        decode_duration=None if decode_duration is None else duration(decode_duration),
        decode_counts=as_message(decode_counts, top_k),
    )


def farewell(
    route: RouteRequest,
    placement: HeldPlacement,
    raised: type[BaseException] | None,
    top_k: int | None,
) -> ReleaseRequest | None:
    """The release on leaving `place`: `raised` is what ended the block, None for its normal end.

    An exception that is no Exception (CancelledError, KeyboardInterrupt, GeneratorExit, SystemExit)
    means that the caller gave up, not that the decode failed. None if nothing is booked.
    """
    if placement.is_fallback or route.dry_run:
        return None  # a fallback was already disowned if the router was asked
    outcome = ReleaseOutcome.COMPLETED
    if raised is not None:
        outcome = (
            ReleaseOutcome.FAILED if issubclass(raised, Exception) else ReleaseOutcome.CANCELLED
        )
    try:
        return release_request(
            route.model,
            route.request_id,
            attempt=route.attempt,
            lease_id=placement.lease_id,
            outcome=placement.outcome or outcome,
            output_tokens=placement.output_tokens,
            decode_duration=placement.decode_duration,
            decode_counts=placement.decode_counts,
            top_k=top_k,
        )
    except (TypeError, ValueError) as error:
        # The booking must end, even if the values set on the placement are invalid.
        logger.warning("%s is released without its statistics: %s", route.request_id, error)
        return release_request(
            route.model,
            route.request_id,
            attempt=route.attempt,
            lease_id=placement.lease_id,
            outcome=outcome,
        )


def _route_of(request: Any) -> RouteRequest | None:
    if isinstance(request, StreamSignaturesRequest) and request.HasField("route"):
        return request.route
    return request if isinstance(request, RouteRequest) else None


def _seconds(route: RouteRequest | None, name: str) -> float:
    seconds: float = getattr(route, name).ToTimedelta().total_seconds()
    return seconds
