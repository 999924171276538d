"""The one place where the shim steps aside for serving."""

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

logger = logging.getLogger("vllm.eldr")  # appears in vLLM's log

P = ParamSpec("P")
T = TypeVar("T")


class UnsupportedError(Exception):
    """Something cannot be captured, or was captured wrongly; the message says why."""


class Guard:
    """Runs one part of the shim until it fails once; from then on it does nothing.

    vLLM's own calls do not pass through it, so a failure here costs only ELDR's part.

    Attributes
    ----------
    reason : str
        Why it has stepped aside; empty while it has not.
    """

    def __init__(self, part: str) -> None:
        self._part = part
        self.reason = ""

    @property
    def active(self) -> bool:
        """Whether the part has not stepped aside."""
        return not self.reason

    def step_aside(self, reason: str) -> None:
        """Do nothing from now on; logs that once."""
        if self.active:
            self.reason = reason
            logger.warning("ELDR steps aside (%s): %s. vLLM serves on", self._part, reason)

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """The result of `work`, or None if the shim has stepped aside, or does so now."""
        if not self.active:
            return None
        try:
            return work(*args, **kwargs)
        except UnsupportedError as error:
            self.step_aside(str(error))
        except Exception as error:
            logger.exception("ELDR failed in its %s", self._part)
            self.step_aside(f"{type(error).__name__}: {error}")
        return None
