"""A circuit breaker: whether to ask the router at all."""

import itertools
import logging
import threading
from collections.abc import Iterator

from eldr.v1.router_pb2 import RouteRequest

from eldr_client.errors import RouterUnavailableError

logger = logging.getLogger("eldr_client")

_FIRST_PROBE = 0.1
_LAST_PROBE = 0.25


class Breaker:
    """Opens at the first call without an answer; closes when a probe is answered.

    One failure is enough, as it costs little: a healthy router answers the first probe, a tenth of
    a second later. The probe is a dry run of Route, the path that calls take, so that whatever
    hangs there keeps the breaker open.
    """

    def __init__(self) -> None:
        self._model: str | None = None  # the model of the call that tripped it; None while closed
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether calls are not to be tried."""
        return self._model is not None

    def trip(self, model: str, error: RouterUnavailableError) -> None:
        """A call for `model` had no answer."""
        with self._lock:
            if self._model is None:
                logger.warning("the router does not answer (%s); falling back", error)
                self._model = model

    def close(self) -> None:
        """The router has answered."""
        with self._lock:
            if self._model is not None:
                logger.info("the router answers again")
                self._model = None

    def probe(self) -> RouteRequest:
        """A request that books nothing; any answer to it will do, even an error."""
        return RouteRequest(model=self._model or "", request_id="eldr-client-probe", dry_run=True)

    @staticmethod
    def probe_pauses() -> Iterator[float]:
        """Seconds before each probe."""
        for power in itertools.count():
            yield min(_FIRST_PROBE * 2.0 ** min(power, 8), _LAST_PROBE)
