"""What a prefill leaves behind: where its KV is, and which experts it used."""

import base64
import binascii
import logging
from dataclasses import dataclass, field
from typing import Any

from eldr.v1.activation_pb2 import ActivationCounts
from eldr_client import Placement, PlacementReason
from google.protobuf.message import DecodeError

from eldr_vllm.proxy.engines import Sent
from eldr_vllm.proxy.fleet import Engine

logger = logging.getLogger("eldr_proxy")


@dataclass(slots=True)
class Prefilled:
    """The answer of a prefill engine; `engine` is None where nobody prefilled."""

    engine: Engine | None = None
    answer: dict[str, Any] = field(default_factory=dict)
    # For the decode engine; None where the prefill engine has no connector.
    kv_transfer_params: dict[str, Any] | None = None
    # The shim took part, so a signature may be on its way to the daemon.
    has_shim: bool = False
    counts: ActivationCounts | None = None
    # The prefill engine had the request placed already, as attempt 0.
    placement: Placement | None = None
    # A decode engine has been asked to fetch the KV.
    sent: Sent = field(default_factory=Sent)

    @classmethod
    def of(cls, engine: Engine, answer: dict[str, Any]) -> "Prefilled":
        """Read an answer."""
        kv = answer.get("kv_transfer_params")
        if not isinstance(kv, dict):
            return cls(engine, answer)
        said = kv.get("eldr")
        eldr = said if isinstance(said, dict) else {}
        kv = {name: value for name, value in kv.items() if name != "eldr"}
        return cls(
            engine,
            answer,
            kv or None,
            bool(eldr),
            _counts(eldr.get("counts")),
            _placement(eldr.get("placement")),
        )

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, as the engine counted them; 0 means unknown."""
        return int((self.answer.get("usage") or {}).get("prompt_tokens") or 0)

    @property
    def worker_id(self) -> str:
        """The prefill worker's id, if it is registered."""
        return self.engine.worker_id if self.engine and self.engine.model else ""

    @property
    def group(self) -> str:
        """Where its KV can go; empty means anywhere."""
        return self.engine.group if self.engine else ""


def _counts(said: Any) -> ActivationCounts | None:
    if said is None:
        return None
    counts = ActivationCounts()
    try:
        counts.ParseFromString(base64.b64decode(said, validate=True))
    except (binascii.Error, DecodeError, TypeError) as error:
        logger.warning("a prefill's counts are not readable: %s", error)
        return None
    return counts


def _placement(said: Any) -> Placement | None:
    if said is None:
        return None
    try:
        return Placement(
            said["worker_id"],
            said["url"],
            said["dp_rank"],
            reason=PlacementReason(said["reason"]),
            lease_id=said["lease_id"],
        )
    except (KeyError, TypeError, ValueError) as error:
        logger.warning("a prefill's placement is not readable: %s", error)
        return None
