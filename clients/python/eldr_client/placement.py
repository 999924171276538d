"""Placements, and what a release says about its decode."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from eldr.v1 import router_pb2
from google.protobuf.message import Message

from eldr_client.counts import AnyCounts


class PlacementReason(StrEnum):
    """Why this worker was chosen; the contract's PlacementReason without its prefix."""

    UNSPECIFIED = "UNSPECIFIED"  # also for a reason newer than this client
    POLICY = "POLICY"
    LOCALITY_BAND = "LOCALITY_BAND"
    LEAST_LOADED_NO_SIGNATURE = "LEAST_LOADED_NO_SIGNATURE"
    LEAST_LOADED_LOW_COVERAGE = "LEAST_LOADED_LOW_COVERAGE"
    LEAST_LOADED_NO_PARTITION = "LEAST_LOADED_NO_PARTITION"
    CLIENT_FALLBACK = "CLIENT_FALLBACK"
    PINNED = "PINNED"
    LEAST_LOADED_POLICY_ERROR = "LEAST_LOADED_POLICY_ERROR"


class SignatureSource(StrEnum):
    """Where a placement's signature came from; the contract's names without their prefix."""

    UNSPECIFIED = "UNSPECIFIED"  # no signature; also for a source newer than this client
    CALLER = "CALLER"
    REGISTERED = "REGISTERED"
    SESSION = "SESSION"
    PREFIX = "PREFIX"
    TENANT = "TENANT"


class ReleaseOutcome(StrEnum):
    """How a decode ended."""

    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class ReleaseResult(StrEnum):
    """What a release found."""

    UNSPECIFIED = "UNSPECIFIED"
    RELEASED = "RELEASED"
    ALREADY_RELEASED = "ALREADY_RELEASED"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class WorkerTarget:
    """A worker to send the decode to."""

    worker_id: str
    url: str
    dp_rank: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """A running request that should move to another worker; nothing has moved yet.

    Attributes
    ----------
    worker_id : str
        Where the request runs.
    target : WorkerTarget
        Where it should go: to carry out the move, route the next attempt pinned to it.
    gain : float
        Predicted savings in seconds, over all requests.
    """

    model: str
    request_id: str
    attempt: int
    worker_id: str
    target: WorkerTarget
    gain: float

    @classmethod
    def of(cls, message: router_pb2.WatchMovesResponse) -> Self:
        """Read the daemon's proposal."""
        to = message.target
        return cls(
            message.model,
            message.request_id,
            message.attempt,
            message.worker_id,
            WorkerTarget(to.worker_id, to.url, to.dp_rank),
            message.gain.ToNanoseconds() / 1e9,
        )


@dataclass(frozen=True, slots=True)
class WorkerScore:
    """How one worker looked at the time of the decision; None where unknown.

    `report_age` is in seconds, and `cost` in the policy's unit; see WorkerScore in router.proto.
    """

    worker_id: str
    eligible: bool
    ineligible_reason: str
    similarity: float | None
    load: float
    in_band: bool
    predicted_active_experts: float | None
    cost: float | None
    report_age: float | None
    stale: bool
    cached_tokens: int


@dataclass(frozen=True)
class Placement:
    """Where a request decodes.

    Attributes
    ----------
    worker_id, url, dp_rank : str, str, int
        The chosen worker. A proxy sends dp_rank as X-data-parallel-rank.
    alternates : tuple of WorkerTarget
        Which workers to try next, best first.
    reason : PlacementReason
        CLIENT_FALLBACK when the router did not answer and nothing is booked.
    repeated : bool
        Whether this is a repeat: (request_id, attempt) was placed before.
    stale : bool
        Whether the loads are from the router's own bookings, as reports are too old.
    policy : str
    partition_version : int
        0 if no partition was used.
    lease_id : str
        Empty for a dry run and for a fallback.
    lease_expires_at : datetime or None
        By this machine's clock, from the remaining time that the router stated.
    similarity : float or None
        Cosine of signature and centroid, -1 to 1.
    coverage : float
        Share of the prompt's tokens whose experts are known, 0 to 1.
    signature_source : SignatureSource
        SESSION, PREFIX and TENANT are predictions from earlier requests.
    early : bool
        Whether it used part of the signature, as the rest had not arrived; `coverage` is of the
        tokens seen so far. The booking takes in the whole signature when it is complete.
    unsaved : bool
        Whether the router cannot write its state at the moment: it would lose this booking in a
        crash.
    rule : str
        The rule that chose this worker, in words; with explain or dry_run.
    scores : tuple of WorkerScore
        One per worker; with explain or dry_run.
    """

    worker_id: str
    url: str
    dp_rank: int = 0
    alternates: tuple[WorkerTarget, ...] = ()
    reason: PlacementReason = PlacementReason.UNSPECIFIED
    repeated: bool = False
    stale: bool = False
    policy: str = ""
    partition_version: int = 0
    lease_id: str = ""
    lease_expires_at: datetime.datetime | None = None
    similarity: float | None = None
    coverage: float = 0.0
    early: bool = False
    unsaved: bool = False
    rule: str = ""
    signature_source: SignatureSource = SignatureSource.UNSPECIFIED
    scores: tuple[WorkerScore, ...] = field(default=(), repr=False)

    @property
    def is_fallback(self) -> bool:
        """Whether the client chose by itself, as the router did not answer."""
        return self.reason is PlacementReason.CLIENT_FALLBACK

    @property
    def targets(self) -> tuple[WorkerTarget, ...]:
        """The chosen worker and its alternates, in the order in which to try them."""
        return WorkerTarget(self.worker_id, self.url, self.dp_rank), *self.alternates

    @classmethod
    def of(cls, placement: "Placement") -> Self:
        """Copy a placement into an instance of this class."""
        return cls(**vars(placement))

    @classmethod
    def from_proto(cls, message: router_pb2.Placement) -> Self:
        """Read the contract's message, received just now."""
        expires = None
        if message.lease_id:
            # From the remaining time, as the two machines' clocks may differ.
            now = datetime.datetime.now(datetime.UTC)
            expires = now + message.lease_remaining.ToTimedelta()
        return cls(
            worker_id=message.worker_id,
            url=message.url,
            dp_rank=message.dp_rank,
            alternates=tuple(
                WorkerTarget(other.worker_id, other.url, other.dp_rank)
                for other in message.alternates
            ),
            reason=_reason(message.reason),
            repeated=message.repeated,
            stale=message.stale,
            policy=message.policy,
            partition_version=message.partition_version,
            lease_id=message.lease_id,
            lease_expires_at=expires,
            similarity=_optional(message, "similarity"),
            coverage=message.coverage,
            early=message.early,
            unsaved=message.unsaved,
            rule=message.rule,
            signature_source=_source(message.signature_source),
            scores=tuple(
                WorkerScore(
                    worker_id=score.worker_id,
                    eligible=score.eligible,
                    ineligible_reason=score.ineligible_reason,
                    similarity=_optional(score, "similarity"),
                    load=score.load,
                    in_band=score.in_band,
                    predicted_active_experts=_optional(score, "predicted_active_experts"),
                    cost=_optional(score, "cost"),
                    report_age=(
                        score.report_age.ToTimedelta().total_seconds()
                        if score.HasField("report_age")
                        else None
                    ),
                    stale=score.stale,
                    cached_tokens=score.cached_tokens,
                )
                for score in message.scores
            ),
        )


class HeldPlacement(Placement):
    """A placement inside `place`; attributes set on it are sent with its release.

    The decision itself is frozen. `outcome` overrides what the end of the block implies,
    `output_tokens` counts all sequences, `decode_duration` (seconds) is from the first token to
    the last, `decode_counts` are the activation counts of the decode.
    """

    outcome: ReleaseOutcome | str | None = None
    output_tokens: int = 0
    decode_duration: float | datetime.timedelta | None = None
    decode_counts: AnyCounts | None = None


def _reason(number: int) -> PlacementReason:
    names: Mapping[int, str] = router_pb2.PlacementReason.DESCRIPTOR.values_by_number
    if number not in names:
        return PlacementReason.UNSPECIFIED
    name = router_pb2.PlacementReason.Name(number).removeprefix("PLACEMENT_REASON_")
    return PlacementReason.__members__.get(name, PlacementReason.UNSPECIFIED)


def _source(number: int) -> SignatureSource:
    names: Mapping[int, str] = router_pb2.SignatureSource.DESCRIPTOR.values_by_number
    if number not in names:
        return SignatureSource.UNSPECIFIED
    name = router_pb2.SignatureSource.Name(number).removeprefix("SIGNATURE_SOURCE_")
    return SignatureSource.__members__.get(name, SignatureSource.UNSPECIFIED)


def _optional(message: Message, name: str) -> float | None:
    return getattr(message, name) if message.HasField(name) else None
