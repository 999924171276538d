"""Whether this engine captures, for its reports to the daemon."""

import logging
from importlib.metadata import PackageNotFoundError, version

from eldr_client import CaptureStatus

logger = logging.getLogger("vllm.eldr")  # so that it comes out in vLLM's log


class CaptureState:
    """Read by the worker session's thread, stopped by any.

    Parameters
    ----------
    probes : bool
        The engine asks itself first: until `verified` no signature may leave it.
    """

    def __init__(self, probes: bool) -> None:
        self._state = "PROBING" if probes else "CAPTURING"
        self._reason = "" if probes else "not probed"
        self._known_tokens = 0
        self._unknown_tokens = 0
        self._software = _software()

    @property
    def stopped(self) -> bool:
        """It has ended, for good."""
        return self._state == "STOPPED"

    @property
    def capturing(self) -> bool:
        """What is captured may be told."""
        return self._state == "CAPTURING"

    def verified(self, reservation: str = "") -> None:
        """The probe is over, and found nothing wrong; or it could not be, for that reason."""
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
        """So many tokens of a prompt have been told, and so many of it were unknown."""
        self._known_tokens += known
        self._unknown_tokens += unknown

    def status(self) -> CaptureStatus:
        """For a report."""
        known, unknown = self._known_tokens, self._unknown_tokens
        return CaptureStatus(self._state, self._reason, known, unknown, self._software)


def _software() -> str:
    try:
        return f"eldr-vllm {version('eldr-vllm')}"
    except PackageNotFoundError:  # it is on the path, and was not installed
        return ""
