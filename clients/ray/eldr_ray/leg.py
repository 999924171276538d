"""A decode that is to be placed: what the prefill said of it, and where it has been tried."""

import base64
import binascii
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from eldr.v1.activation_pb2 import ActivationCounts
from google.protobuf.message import DecodeError
from ray.serve.request_router import PendingRequest, ReplicaID

logger = logging.getLogger("eldr_ray")


@dataclass(kw_only=True, eq=False)
class Booking:
    """A place that ELDR holds for one attempt; `accepted` once the replica has the request."""

    model: str
    request_id: str
    attempt: int
    lease_id: str
    replica_id: ReplicaID
    accepted: bool = False


@dataclass(kw_only=True, eq=False)
class Leg:
    """One request at one request router.

    Attributes
    ----------
    params : dict
        The request's `kv_transfer_params`; its key `eldr` says what the decode engine is to know.
    model, request_id : str
        As the daemon knows them.
    counts : ActivationCounts or None
        None where the prefill has sent them to the daemon alone.
    placement : mapping
        What the prefill engine was told when it asked itself (`place` is `daemon`); else empty.
    output_limit : int
        Tokens that the answer may have; 0 where the request leaves it open.
    attempt : int
        The next one's number.
    tried : set of ReplicaID
        Replicas that Ray could not send it to.
    """

    params: dict[str, Any]
    model: str
    request_id: str
    counts: ActivationCounts | None
    placement: Mapping[str, Any]
    output_limit: int = 0
    attempt: int = 0
    tried: set[ReplicaID] = field(default_factory=set)
    booking: Booking | None = None

    @classmethod
    def of(cls, pending: PendingRequest | None, model: str) -> Self | None:
        """The leg of a request, the same one each time Ray asks; None where ELDR has no part in it.

        `model` stands where the prefill names none.
        """
        if pending is None:
            return None
        context = pending.routing_context  # for "routing attempts": lives as long as the request
        if not hasattr(context, "eldr"):
            context.eldr = cls._read(pending, model)
        leg: Self | None = context.eldr
        return leg

    @classmethod
    def _read(cls, pending: PendingRequest, model: str) -> Self | None:
        for argument in (*pending.args, *pending.kwargs.values()):
            params = _field(argument, "kv_transfer_params")
            if isinstance(params, dict) and isinstance(said := params.pop("eldr", None), dict):
                break
        else:
            return None
        placement = said.get("placement")
        name, request_id = said.get("model") or model, said.get("request_id")
        if not isinstance(name, str) or not isinstance(request_id, str) or not name:
            logger.warning(
                "expected model and request_id in kv_transfer_params.eldr, found %s", said
            )
            return None
        return cls(
            params=params,
            model=name,
            request_id=request_id,
            counts=_counts(said.get("counts")),
            placement=placement if isinstance(placement, dict) else {},
            output_limit=_output_limit(argument),
        )

    def booked(self, booking: Booking) -> None:
        """The decode engine is told whose place it fills."""
        self.booking = booking
        self.params["eldr"] = {
            "request_id": booking.request_id,
            "attempt": booking.attempt,
            "lease_id": booking.lease_id,
        }

    def unbooked(self) -> Booking | None:
        """Forget the place, which is returned, as Ray could not send the request there."""
        booking, self.booking = self.booking, None
        self.params.pop("eldr", None)
        if booking is not None:
            self.tried.add(booking.replica_id)
        return booking


def _field(request: Any, name: str) -> Any:
    """Of a body, or of one of vLLM's models."""
    return request.get(name) if isinstance(request, dict) else getattr(request, name, None)


def _output_limit(request: Any) -> int:
    limits = (_field(request, name) for name in ("max_completion_tokens", "max_tokens"))
    return next((limit for limit in limits if type(limit) is int and 0 < limit < 1 << 31), 0)


def _counts(said: Any) -> ActivationCounts | None:
    """Counts out of an answer's base64; what cannot be read is as good as none."""
    if said is None:
        return None
    counts = ActivationCounts()
    try:
        counts.ParseFromString(base64.b64decode(said, validate=True))
    except (binascii.Error, DecodeError, TypeError, ValueError) as error:
        logger.warning("a prefill's counts are not readable: %s", error)
        return None
    return counts
