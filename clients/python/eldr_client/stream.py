"""One StreamSignatures call that carries the messages of many requests."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from eldr.v1.router_pb2 import StreamSignaturesRequest, StreamSignaturesResponse

Answers = queue.SimpleQueue[StreamSignaturesResponse | grpc.RpcError]


class SignatureStream:
    """Sends a message and waits for its answer, like a unary call, on a call that stays open.

    It opens on first use, and again after a failure. Threads take turns.

    Parameters
    ----------
    begin : callable
        Takes an iterator of requests, and returns a call that iterates over responses.
    """

    def __init__(self, begin: Callable[[Iterator[StreamSignaturesRequest]], Any]) -> None:
        self._begin = begin
        self._turn = threading.RLock()  # it knows whether this thread has it
        self._awaits = False
        self._call: Any = None
        self._requests: queue.SimpleQueue[StreamSignaturesRequest | None] = queue.SimpleQueue()
        self._answers: Answers = queue.SimpleQueue()

    def exchange(
        self, request: StreamSignaturesRequest, timeout: float
    ) -> StreamSignaturesResponse:
        """Send `request` and return its answer.

        Raises
        ------
        grpc.RpcError
            DEADLINE_EXCEEDED after `timeout` seconds, or the error that ended the stream.
        """
        deadline = time.monotonic() + timeout
        try:
            if not self._turn.acquire(timeout=timeout):
                raise BrokenError(
                    grpc.StatusCode.DEADLINE_EXCEEDED, "other threads' messages took too long"
                )
            if self._awaits:  # a signal handler interrupts this thread's own message
                with contextlib.closing(SignatureStream(self._begin)) as stream:
                    return stream.exchange(request, timeout)
            return self._exchange(request, deadline)
        except queue.Empty:
            raise BrokenError(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer in {timeout:.3g} s"
            ) from None
        finally:
            with contextlib.suppress(RuntimeError):  # an interrupt came before it was acquired
                self._turn.release()

    def close(self) -> None:
        """End the call."""
        with self._turn:
            self._end()

    def _exchange(
        self, request: StreamSignaturesRequest, deadline: float
    ) -> StreamSignaturesResponse:
        try:
            self._awaits = True
            if self._call is None or not self._answers.empty():  # it broke while idle
                self._open()
            self._requests.put(request)
            answer = self._answers.get(timeout=max(deadline - time.monotonic(), 0.001))
            if isinstance(answer, grpc.RpcError):
                raise answer
        except BaseException:
            self._end()  # a late answer would be mistaken for the next message's
            raise
        finally:
            self._awaits = False
        return answer

    def _open(self) -> None:
        self._end()
        self._requests, self._answers = queue.SimpleQueue(), queue.SimpleQueue()
        self._call = self._begin(iter(self._requests.get, None))
        threading.Thread(
            target=_read, args=(self._call, self._answers), name="eldr-signatures", daemon=True
        ).start()

    def _end(self) -> None:
        if self._call is not None:
            self._requests.put(None)  # ends gRPC's thread, which waits for requests
            self._call.cancel()
            self._call = None


def _read(call: Any, answers: Answers) -> None:
    try:
        for answer in call:
            answers.put(answer)
        answers.put(BrokenError(grpc.StatusCode.UNAVAILABLE, "the router ended the stream"))
    except grpc.RpcError as error:
        answers.put(error)


class BrokenError(grpc.RpcError):
    """Has the interface of gRPC's own errors."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._said = code, details
        super().__init__(details)

    def code(self) -> grpc.StatusCode:
        """The status."""
        return self._said[0]

    def details(self) -> str:
        """The error message."""
        return self._said[1]

    def trailing_metadata(self) -> tuple[()]:
        """There is none."""
        return ()
