"""Messages to the daemon, sent by a thread that the engine never waits for."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from eldr_client import EldrError, RouterClient, RouterUnavailableError, span_attributes
from eldr_client.traces import Span, Traces, Value

from eldr_vllm.guard import Guard

logger = logging.getLogger("vllm.eldr")  # appears in vLLM's log

FAREWELL = 1.0
Message = Callable[[RouterClient], None]
_UNTRACED = Traces()


class Outbox:
    """A queue of at most `limit` messages; when there are more, the oldest are dropped.

    The client has the deadline of each call and the circuit breaker: while the daemon is away, a
    message costs microseconds and is lost, while the client keeps releases. `dropped` is called
    for each message dropped because of the limit.
    """

    def __init__(
        self,
        client: RouterClient,
        limit: int,
        traces: Traces,
        dropped: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._traces = traces
        self._dropped = dropped
        self._guard = Guard("outbox")
        self._messages: deque[Message] = deque(maxlen=limit)
        self._arrived = threading.Condition()
        self._closing = False
        self._lost = 0
        self._thread = threading.Thread(target=self._loop, name="eldr-outbox", daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        """Queue `message`, to be called with the client later."""
        with self._arrived:
            if len(self._messages) == self._messages.maxlen:
                if self._lost == 0:
                    logger.warning("the daemon is too slow: the oldest messages are dropped")
                self._lost += 1
                self._dropped()
            self._messages.append(message)
            self._arrived.notify()

    def span(
        self,
        method: str,
        request: Mapping[str, Value | None],
        within: Mapping[str, str],
    ) -> AbstractContextManager[Span]:
        """A span for a message that calls `method`; none if its request belongs to no trace."""
        traces = self._traces if within else _UNTRACED
        said = {**span_attributes.call(method), **request}
        return traces.span(str(said["rpc.method"]), said, kind="client", within=within)

    def close(self) -> None:
        """Send what is queued, for at most a second."""
        with self._arrived:
            self._closing = True
            self._arrived.notify()
        self._thread.join(FAREWELL)
        self._client.close()
        self._traces.close()

    def _loop(self) -> None:
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: self._messages or self._closing)
                if not self._messages:
                    return
                message = self._messages.popleft()
            self._guard.run(self._say, message)

    def _say(self, message: Message) -> None:
        try:
            message(self._client)
        except RouterUnavailableError:
            pass  # the client has logged it, and probes for the daemon
        except EldrError as error:
            logger.warning("the daemon refused a message: %s", error)
