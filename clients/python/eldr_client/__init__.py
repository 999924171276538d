"""Client of ELDR, the expert-locality-aware decode router."""

from eldr_client import aio, errors
from eldr_client.capture import CaptureStatus
from eldr_client.client import RouterClient
from eldr_client.counts import Counts
from eldr_client.errors import EldrError, RouterUnavailableError
from eldr_client.handoff import Handoff
from eldr_client.placement import (
    HeldPlacement,
    Move,
    Placement,
    PlacementReason,
    ReleaseOutcome,
    ReleaseResult,
    SignatureSource,
    WorkerScore,
    WorkerTarget,
)
from eldr_client.worker import LoadReport, WorkerSession

__all__ = [
    "CaptureStatus",
    "Counts",
    "EldrError",
    "Handoff",
    "HeldPlacement",
    "LoadReport",
    "Move",
    "Placement",
    "PlacementReason",
    "ReleaseOutcome",
    "ReleaseResult",
    "RouterClient",
    "RouterUnavailableError",
    "SignatureSource",
    "WorkerScore",
    "WorkerSession",
    "WorkerTarget",
    "aio",
    "errors",
]
