"""What an engine does once its HTTP server answers, and periodically from then on."""

import http.client
import threading
import urllib.request
from collections.abc import Callable

_PAUSE = 0.5
_TIMEOUT = 2.0
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # ignores http_proxy


class Startup:
    """Waits for `url`/health on its own thread, then runs the steps in order.

    Parameters
    ----------
    url : str
    steps : callables ()
    then : callable (), optional
        Called every `every` seconds afterwards.
    every : float
        0 for never.
    """

    def __init__(
        self,
        url: str,
        *steps: Callable[[], None],
        then: Callable[[], None] | None = None,
        every: float = 0.0,
    ) -> None:
        self._url = url.rstrip("/") + "/health"
        self._steps, self._then, self._every = steps, then, every
        self._closing = threading.Event()
        threading.Thread(target=self._run, name="eldr-startup", daemon=True).start()

    def close(self) -> None:
        """Run no more steps, nor the periodic one."""
        self._closing.set()

    def _run(self) -> None:
        while not self._answers():
            if self._closing.wait(_PAUSE):
                return
        for step in self._steps:
            if not self._closing.is_set():
                step()
        while self._then and self._every and not self._closing.wait(self._every):
            self._then()

    def _answers(self) -> bool:
        try:
            with DIRECTLY.open(self._url, timeout=_TIMEOUT) as answer:
                return bool(answer.status == 200)
        except (OSError, http.client.HTTPException):
            return False
