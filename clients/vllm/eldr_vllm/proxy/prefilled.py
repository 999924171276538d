"""What a prefill leaves behind: where its KV is, and which experts it used."""

import base64
import binascii
import logging
from dataclasses import dataclass, field
from typing import Any, TypeVar

from eldr.v1.activation_pb2 import ActivationCounts
from eldr.v1.router_pb2 import Placement as PlacementMessage
from eldr_client import Placement
from google.protobuf.message import DecodeError, Message

from eldr_vllm.proxy.engines import Sent
from eldr_vllm.proxy.fleet import Engine

M = TypeVar("M", bound=Message)

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
        eldr = kv.get("eldr") or {}
        kv = {name: value for name, value in kv.items() if name != "eldr"}
        counts = _message(ActivationCounts(), eldr.get("counts"))
        placed = _message(PlacementMessage(), eldr.get("placement"))
        return cls(
            engine,
            answer,
            kv or None,
            bool(eldr),
            counts,
            Placement.from_proto(placed) if placed is not None else None,
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


def _message(message: M, text: str | None) -> M | None:
    if not text:
        return None
    try:
        message.ParseFromString(base64.b64decode(text, validate=True))
    except (binascii.Error, DecodeError, TypeError) as error:
        logger.warning("a prefill's %s is not readable: %s", message.DESCRIPTOR.name, error)
        return None
    return message
