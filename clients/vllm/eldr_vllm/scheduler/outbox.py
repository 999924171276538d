"""What the engine has to say to the daemon, said by a thread that the engine never waits for."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from eldr_client import EldrError, RouterClient, RouterUnavailableError, span_attributes
from eldr_client.traces import Span, Traces, Value

from eldr_vllm.guard import Guard

logger = logging.getLogger("vllm.eldr")  # so that it comes out in vLLM's log

FAREWELL = 1.0
Message = Callable[[RouterClient], None]
_UNTRACED = Traces()


class Outbox:
    """Messages in order, `limit` of them at most; the oldest go when there are more.

    The client has the deadline of each call and the circuit breaker: while the daemon is away, a
    message costs microseconds and is lost, a release is kept by the client. `dropped` is called for
    each message that goes unsaid for the limit.
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
        """Have `message` called with the client, later."""
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
        """A span for a message that calls `method`; none where its request belongs to no trace."""
        traces = self._traces if within else _UNTRACED
        said = {**span_attributes.call(method), **request}
        return traces.span(str(said["rpc.method"]), said, kind="client", within=within)

    def close(self) -> None:
        """Say what is still unsaid, for a second at most."""
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
            pass  # the client has said so, and looks for the daemon
        except EldrError as error:
            logger.warning("the daemon refuses: %s", error)
