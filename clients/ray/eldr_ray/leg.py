"""A decode to be placed: what the prefill said about it, and where it has been tried."""

import logging
from dataclasses import dataclass, field
from typing import Any, Self

from eldr_client import Handoff
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
        The request's `kv_transfer_params`; its key `eldr` is for the decode engine.
    model : str
        The model's name at the daemon.
    handoff : Handoff
        What the prefill says about the request.
    output_limit : int
        Tokens that the answer may have at most; 0 if the request sets no limit.
    attempt : int
        Number of the next attempt.
    tried : set of ReplicaID
        Replicas to which Ray could not send the request.
    """

    params: dict[str, Any]
    model: str
    handoff: Handoff
    output_limit: int = 0
    attempt: int = 0
    tried: set[ReplicaID] = field(default_factory=set)
    booking: Booking | None = None

    @classmethod
    def of(cls, pending: PendingRequest | None, model: str) -> Self | None:
        """The leg of a request, the same one each time Ray asks; None if ELDR does not place it.

        `model` is the default if the prefill names none.
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
            if isinstance(params, dict) and (said := Handoff.of(params.pop("eldr", None))):
                break
        else:
            return None
        model = said.model or model
        if not model or not said.request_id:
            logger.warning(
                "expected model and request_id in kv_transfer_params.eldr, found %s", said
            )
            return None
        return cls(params=params, model=model, handoff=said, output_limit=_output_limit(argument))

    def booked(self, booking: Booking) -> None:
        """Tell the decode engine which booking it serves."""
        self.booking = booking
        self.params["eldr"] = {
            "request_id": booking.request_id,
            "attempt": booking.attempt,
            "lease_id": booking.lease_id,
        }

    def unbooked(self) -> Booking | None:
        """Forget the booking and return it: Ray could not send the request there."""
        booking, self.booking = self.booking, None
        self.params.pop("eldr", None)
        if booking is not None:
            self.tried.add(booking.replica_id)
        return booking


def _field(request: Any, name: str) -> Any:
    """A field of a JSON body or of one of vLLM's request models."""
    return request.get(name) if isinstance(request, dict) else getattr(request, name, None)


def _output_limit(request: Any) -> int:
    limits = (_field(request, name) for name in ("max_completion_tokens", "max_tokens"))
    return next((limit for limit in limits if type(limit) is int and 0 < limit < 1 << 31), 0)
