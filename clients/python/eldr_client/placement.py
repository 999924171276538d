"""What a placement is, and what a decode says of itself when it ends."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from eldr.v1 import router_pb2
from google.protobuf.message import Message

from eldr_client.counts import AnyCounts


class PlacementReason(StrEnum):
    """Why a placement is what it is; the contract's PlacementReason without its prefix."""

    UNSPECIFIED = "UNSPECIFIED"  # also a reason that is newer than this client
    POLICY = "POLICY"
    LOCALITY_BAND = "LOCALITY_BAND"
    LEAST_LOADED_NO_SIGNATURE = "LEAST_LOADED_NO_SIGNATURE"
    LEAST_LOADED_LOW_COVERAGE = "LEAST_LOADED_LOW_COVERAGE"
    LEAST_LOADED_NO_PARTITION = "LEAST_LOADED_NO_PARTITION"
    CLIENT_FALLBACK = "CLIENT_FALLBACK"
    PINNED = "PINNED"
    LEAST_LOADED_POLICY_ERROR = "LEAST_LOADED_POLICY_ERROR"


class SignatureSource(StrEnum):
    """Where a placement's signature came from; the contract's, without its prefix."""

    UNSPECIFIED = "UNSPECIFIED"  # there was none; also a source that is newer than this client
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
    """A running request that should go on at another worker; nothing has moved yet.

    Attributes
    ----------
    worker_id : str
        Where it runs.
    target : WorkerTarget
        Where it should go on: to carry the move out, route the next attempt pinned to it.
    gain : float
        Seconds that it is predicted to save of all requests' time together.
    """

    model: str
    request_id: str
    attempt: int
    worker_id: str
    target: WorkerTarget
    gain: float

    @classmethod
    def of(cls, message: router_pb2.WatchMovesResponse) -> Self:
        """As the daemon proposed it."""
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
    """How one worker looked when the decision was made; None where unknown.

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
        Who to try next, best first.
    reason : PlacementReason
        CLIENT_FALLBACK when the router did not answer and nothing is booked.
    repeated : bool
        The same (request_id, attempt) was placed before; this is that answer again.
    stale : bool
        The loads rest on the router's own bookings.
    policy : str
    partition_version : int
        0 where no partition was used.
    lease_id : str
        Empty for a dry run and a fallback.
    lease_expires_at : datetime or None
        By this machine's clock, from the time that the router said remained.
    similarity : float or None
        Cosine of signature and centroid, -1 to 1.
    coverage : float
        Share of the prompt's tokens whose experts are known, 0 to 1.
    signature_source : SignatureSource
        SESSION, PREFIX and TENANT are predictions, by earlier requests.
    early : bool
        It rests on a part of the signature, as the rest has not come; `coverage` is that of the
        tokens seen so far. The booking takes in the whole when it is complete.
    unsaved : bool
        The router cannot write its state at the moment: a crash of it would forget this booking.
    rule : str
        The rule that took this worker, in words; with explain or dry_run.
    scores : tuple of WorkerScore
        Of all workers; with explain or dry_run.
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
        """The client chose by itself, as the router did not answer."""
        return self.reason is PlacementReason.CLIENT_FALLBACK

    @property
    def targets(self) -> tuple[WorkerTarget, ...]:
        """The chosen worker and its alternates, in the order to try them."""
        return WorkerTarget(self.worker_id, self.url, self.dp_rank), *self.alternates

    @classmethod
    def of(cls, placement: "Placement") -> Self:
        """The same decision, as an instance of this class."""
        return cls(**vars(placement))

    @classmethod
    def from_proto(cls, message: router_pb2.Placement) -> Self:
        """From the contract's message, received just now."""
        expires = None
        if message.lease_id:
            # The remaining time, as the two machines' clocks need not agree.
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
    """A placement inside `place`: what is set on it here goes into its release.

    The decision itself stays frozen. `outcome` overrides what the way out of the block says,
    `output_tokens` counts all sequences, `decode_duration` (seconds) runs from the first token to
    the last, `decode_counts` are the experts that the decode really used.
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
