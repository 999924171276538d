"""Whether this engine captures, for its reports to the daemon."""

import logging
from importlib.metadata import PackageNotFoundError, version

from eldr_client import CaptureStatus

logger = logging.getLogger("vllm.eldr")  # appears in vLLM's log


class CaptureState:
    """Read by the worker session's thread, stopped by any thread.

    Parameters
    ----------
    probes : bool
        Whether the engine probes itself first: until `verified`, no signature may leave it.
    """

    def __init__(self, probes: bool) -> None:
        self._state = "PROBING" if probes else "CAPTURING"
        self._reason = "" if probes else "not probed"
        self._known_tokens = 0
        self._unknown_tokens = 0
        self._software = _software()

    @property
    def stopped(self) -> bool:
        """Whether the capture has ended, for good."""
        return self._state == "STOPPED"

    @property
    def capturing(self) -> bool:
        """Whether what is captured may be sent."""
        return self._state == "CAPTURING"

    def verified(self, reservation: str = "") -> None:
        """The probe is over and found no fault; or it could not be made, for that reason."""
        if not self.stopped:
            self._state, self._reason = "CAPTURING", reservation
            if reservation:
                logger.warning("ELDR captures unverified: %s", reservation)
            else:
                logger.info("ELDR captures: the probe gave the same experts every time")

    def stop(self, reason: str) -> None:
        """Nothing is captured any more."""
        if not self.stopped:
            self._state, self._reason = "STOPPED", reason
            logger.warning("ELDR captures nothing here: %s", reason)

    def add(self, known: int, unknown: int) -> None:
        """Count tokens of a prompt that was sent: those known, and those unknown."""
        self._known_tokens += known
        self._unknown_tokens += unknown

    def status(self) -> CaptureStatus:
        """The status for a report."""
        known, unknown = self._known_tokens, self._unknown_tokens
        return CaptureStatus(self._state, self._reason, known, unknown, self._software)


def _software() -> str:
    try:
        return f"eldr-vllm {version('eldr-vllm')}"
    except PackageNotFoundError:  # on the path, but not installed
        return ""
