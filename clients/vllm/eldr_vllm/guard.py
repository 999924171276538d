"""The one place where the shim gives way to serving."""

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

logger = logging.getLogger("vllm.eldr")  # so that it comes out in vLLM's log

P = ParamSpec("P")
T = TypeVar("T")


class UnsupportedError(Exception):
    """What was found cannot be captured, or was not captured rightly; the message says why."""


class Guard:
    """Does one part of the shim's work until it fails once; from then on it does nothing.

    vLLM's own calls pass outside of it, so a failure here costs ELDR's part and nothing else.

    Attributes
    ----------
    reason : str
        Why it has given way; empty while it has not.
    """

    def __init__(self, part: str) -> None:
        self._part = part
        self.reason = ""

    @property
    def active(self) -> bool:
        """The part has not given way."""
        return not self.reason

    def step_aside(self, reason: str) -> None:
        """Do nothing from now on; says so once."""
        if self.active:
            self.reason = reason
            logger.warning("ELDR steps aside (%s): %s. vLLM serves on", self._part, reason)

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """The result of `work`, or None when the shim has stepped aside, or does so now."""
        if not self.active:
            return None
        try:
            return work(*args, **kwargs)
        except UnsupportedError as error:
            self.step_aside(str(error))
        except Exception as error:
            logger.exception("ELDR fails in its %s", self._part)
            self.step_aside(f"{type(error).__name__}: {error}")
        return None
