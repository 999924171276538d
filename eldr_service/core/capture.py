"""Whether a worker captures the experts that its tokens used."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Self


class CaptureState(IntEnum):
    """The state of a worker's capture; the numbers are the contract's."""

    PROBING = 1
    CAPTURING = 2
    STOPPED = 3


@dataclass(frozen=True, slots=True)
class CaptureStatus:
    """What a worker reports about its capture.

    `reason` is why it stopped, or what could not be verified; the token counts are of prompts,
    since the worker started. `software` is the capturing software and its version.
    """

    state: CaptureState
    reason: str = ""
    known_tokens: int = 0
    unknown_tokens: int = 0
    software: str = ""

    def differs(self, other: Self | None) -> bool:
        """Whether more has changed than the token counts."""
        return other is None or (self.state, self.reason) != (other.state, other.reason)
