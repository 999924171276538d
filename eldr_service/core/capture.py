"""Whether a worker tells which experts its tokens used."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Self


class CaptureState(IntEnum):
    """How a worker's capture stands; the numbers are the contract's."""

    PROBING = 1
    CAPTURING = 2
    STOPPED = 3


@dataclass(frozen=True, slots=True)
class CaptureStatus:
    """What a worker says of its capture.

    `reason` is why it stopped, or what could not be verified; the tokens are those of prompts,
    totals since the worker started. `software` is what captures, with its version.
    """

    state: CaptureState
    reason: str = ""
    known_tokens: int = 0
    unknown_tokens: int = 0
    software: str = ""

    def differs(self, other: Self | None) -> bool:
        """Something else is the case, not only more tokens."""
        return other is None or (self.state, self.reason) != (other.state, other.reason)
