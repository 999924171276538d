"""Sends an engine's messages to the daemon, in a thread that the engine never waits for."""

import logging
import threading
from collections import deque
from collections.abc import Callable

from eldr_client import EldrError, RouterClient, RouterUnavailableError

logger = logging.getLogger("sglang.srt.eldr")

Message = Callable[[RouterClient], object]
LIMIT = 1024  # a signature of 61 layers x 256 experts takes 31 kB


class Outbox:
    """Sends messages in order; beyond LIMIT the oldest are dropped.

    The client sets each call's deadline and has the circuit breaker: while the daemon is down, a
    message costs microseconds and is lost.
    """

    def __init__(self, client: RouterClient) -> None:
        self._client = client
        self._messages: deque[Message] = deque(maxlen=LIMIT)
        self._arrived = threading.Semaphore(0)
        threading.Thread(target=self._loop, name="eldr-outbox", daemon=True).start()

    def put(self, message: Message) -> None:
        """Call `message` with the client later, in the thread."""
        self._messages.append(message)
        self._arrived.release()

    def _loop(self) -> None:
        while True:
            self._arrived.acquire()
            try:
                message = self._messages.popleft()
            except IndexError:
                continue  # dropped for a later one
            try:
                message(self._client)
            except RouterUnavailableError:
                pass  # the client has logged it and probes the daemon
            except EldrError as error:
                logger.warning("rejected by ELDR's daemon: %s", error)
