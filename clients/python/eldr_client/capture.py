"""Whether a worker captures the experts that its tokens used."""

from dataclasses import dataclass

from eldr.v1 import fleet_pb2

MAX_REASON_BYTES = 1_024
"""Bytes of UTF-8; the router refuses a longer reason."""

_STATES = ("PROBING", "CAPTURING", "STOPPED")
_CUT = " …"


@dataclass(frozen=True, slots=True)
class CaptureStatus:
    """The state of a worker's capture of routed experts.

    Parameters
    ----------
    state : {"PROBING", "CAPTURING", "STOPPED"}
    reason : str
        Why it stopped, or what could not be verified. Use the same words while the cause is the
        same, as each change is logged. It is cut at 1,024 bytes.
    known_tokens, unknown_tokens : int
        Prompt tokens whose experts were known or unknown, since the worker started.
    software : str
        The capturing software and its version, such as "eldr-vllm 0.1.0".

    Raises
    ------
    ValueError
        An unknown state, or a negative number.
    """

    state: str
    reason: str = ""
    known_tokens: int = 0
    unknown_tokens: int = 0
    software: str = ""

    def __post_init__(self) -> None:
        if self.state not in _STATES:
            raise ValueError(f"state: expected one of {', '.join(_STATES)}, found {self.state!r}")
        for field in ("known_tokens", "unknown_tokens"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field}: expected 0 or more, found {getattr(self, field)}")

    def to_proto(self) -> fleet_pb2.CaptureStatus:
        """The message."""
        return fleet_pb2.CaptureStatus(
            state=f"CAPTURE_STATE_{self.state}",
            reason=_cut(self.reason),
            known_tokens=self.known_tokens,
            unknown_tokens=self.unknown_tokens,
            software=self.software,
        )


def _cut(reason: str) -> str:
    """As many whole characters as may be sent; what is not a character becomes a `?`."""
    encoded = reason.encode(errors="replace")
    if len(encoded) > MAX_REASON_BYTES:
        room = MAX_REASON_BYTES - len(_CUT.encode())
        return encoded[:room].decode(errors="ignore") + _CUT
    return encoded.decode()
