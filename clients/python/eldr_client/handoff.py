"""What ELDR's connector returns from a prefill: `eldr` in the answer's `kv_transfer_params`."""

import base64
import binascii
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from eldr.v1.activation_pb2 import ActivationCounts
from google.protobuf.message import DecodeError

from eldr_client.placement import Placement, PlacementReason

logger = logging.getLogger("eldr_client")

_MAX_TEXT = 4096  # characters of an id or address
_MAX_RANK = (1 << 31) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Handoff:
    """A prefill's contribution to the placement of its decode.

    Attributes
    ----------
    model, request_id : str
        As the daemon knows them; empty if not given.
    counts : ActivationCounts or None
        None if not given: the daemon may have them under the request's id.
    placement : Placement or None
        The placement, if the prefill engine asked for it.
    is_placed : bool
        Whether it asked: there is a booking, even if its placement cannot be read.
    """

    model: str = ""
    request_id: str = ""
    counts: ActivationCounts | None = None
    placement: Placement | None = None
    is_placed: bool = False

    @classmethod
    def of(cls, said: object) -> Self | None:
        """Parse it; unreadable parts are left out and logged. None if there is nothing to parse."""
        if not isinstance(said, Mapping) or not said:
            return None
        return cls(
            model=_name(said.get("model")),
            request_id=_name(said.get("request_id")),
            counts=_counts(said.get("counts")),
            placement=_placement(said.get("placement")),
            is_placed=bool(said.get("placement")),
        )


def _counts(said: Any) -> ActivationCounts | None:
    if said is None:
        return None
    counts = ActivationCounts()
    try:
        counts.ParseFromString(base64.b64decode(said, validate=True))
    except (binascii.Error, DecodeError, TypeError, ValueError) as error:
        logger.warning("a prefill's counts are not readable: %s", error)
        return None
    return counts


def _placement(said: Any) -> Placement | None:
    if said is None:
        return None
    try:
        worker_id, url, lease_id = (_text(said[name]) for name in ("worker_id", "url", "lease_id"))
        rank = said["dp_rank"]
        if type(rank) is not int or not 0 <= rank <= _MAX_RANK:
            raise ValueError(f"expected a rank, found {rank!r:.80}")
        reason = PlacementReason(said["reason"])
        return Placement(worker_id, url, rank, reason=reason, lease_id=lease_id)
    except (LookupError, TypeError, ValueError) as error:
        logger.warning("a prefill's placement is not readable: %r", error)
        return None


def _name(said: Any) -> str:
    try:
        return _text(said)
    except ValueError:
        return ""


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT:
        raise ValueError(f"expected text, found {value!r:.80}")
    value.encode()  # lone surrogates raise UnicodeEncodeError, a ValueError
    return value
