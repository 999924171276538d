"""Leaves engines alone for a while after they fail.

Otherwise a dead engine would cost each request sent to it a try, until the daemon has forgotten it.
The next request after the pause is the probe; pauses double until one succeeds.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from eldr_vllm.proxy.fleet import Engine

logger = logging.getLogger("eldr_proxy")

FIRST_SECONDS = 5.0
LAST_SECONDS = 60.0


@dataclass(slots=True)
class _Pause:
    seconds: float
    end: float


class CoolDown:
    """Engines that are not to be chosen now, by worker id; `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pauses: dict[str, _Pause] = {}

    @property
    def worker_ids(self) -> set[str]:
        """The engines that cool down."""
        now = self._clock()
        return {worker_id for worker_id, pause in self._pauses.items() if now < pause.end}

    def spare(self, engines: list[Engine]) -> list[Engine]:
        """Those of `engines` that do not cool down; all, if none is left."""
        cooling = self.worker_ids
        return [engine for engine in engines if engine.worker_id not in cooling] or engines

    def failed(self, worker_ids: Iterable[str]) -> None:
        """An engine with these names failed. Failures during a pause do not prolong it."""
        now = self._clock()
        # Drop engines that are gone for good.
        self._pauses = {k: p for k, p in self._pauses.items() if now < p.end + LAST_SECONDS}
        for worker_id in worker_ids:
            pause = self._pauses.get(worker_id)
            if pause is not None and now < pause.end:
                continue
            seconds = min(2 * pause.seconds, LAST_SECONDS) if pause else FIRST_SECONDS
            self._pauses[worker_id] = _Pause(seconds, now + seconds)
            logger.warning("%s failed and is left alone for %g s", worker_id, seconds)

    def succeeded(self, worker_ids: Iterable[str]) -> None:
        """It answered, or has a new incarnation, which inherits nothing."""
        for worker_id in worker_ids:
            self._pauses.pop(worker_id, None)
