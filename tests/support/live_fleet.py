"""Workers that report, and requests that come and go, against a real daemon in real time."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Sequence

import numpy as np
from eldr.v1 import activation_pb2, fleet_pb2
from google.protobuf.duration_pb2 import Duration
from routed import separable
from wire import Client, counts

REPORT_SECONDS = 0.5


class LiveFleet:
    """Drives a model in a thread until `stop`.

    Parameters
    ----------
    address : str
        The daemon's gRPC address.
    workers : sequence of str
        Their ids.
    rate : float
        Requests per second; each decodes for `decode_s`.
    capturing : int
        How many of the workers report that they capture.
    """

    def __init__(
        self,
        address: str,
        workers: Sequence[str],
        model: str = "m",
        *,
        rate: float = 40.0,
        decode_s: float = 1.0,
        request_ids: str = "request-",
        capturing: int = 0,
        credentials=None,
    ) -> None:
        self._client = Client(address, credentials=credentials)
        self._model, self._rate, self._decode_s = model, rate, decode_s
        self._request_ids = request_ids
        self._capturing = set(workers[:capturing])
        self._recording = separable(4, 20, layers=4, experts=32, top_k=4)
        g = self._recording.geometry
        self._geometry = activation_pb2.ModelGeometry(
            num_layers=g.num_layers, num_experts=g.num_experts, top_k=g.top_k
        )
        self._incarnation = {worker: self._register(worker) for worker in workers}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.placed = 0

    def __enter__(self) -> "LiveFleet":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._client.channel.close()

    def _register(self, worker: str) -> int:
        return self._client.register(
            self._model,
            worker,
            geometry=self._geometry,
            capacity=fleet_pb2.WorkerCapacity(sequences=32),
        )

    def _run(self) -> None:
        running: deque[tuple[float, str, str, int]] = deque()
        numbers, reports = itertools.count(), itertools.count(1)
        next_report = 0.0
        while not self._stopping.wait(1 / self._rate):
            now = time.monotonic()
            while running and running[0][0] <= now:
                _, request, _, recording = running.popleft()
                self._release(request, recording)
            number = next(numbers)
            recording = number % self._recording.num_requests
            request = f"{self._request_ids}{number}"
            worker = self._route(request, recording)
            self.placed += 1
            running.append((now + self._decode_s, request, worker, recording))
            if now >= next_report:
                next_report = now + REPORT_SECONDS
                self._report(running, next(reports))
        for _, request, _, recording in running:
            self._release(request, recording)

    def _counts(self, tokens: slice) -> activation_pb2.ActivationCounts:
        counted = self._recording.counts_of(tokens)
        return counts(counted, num_layers=len(counted), top_k=self._geometry.top_k)

    def _route(self, request: str, recording: int) -> str:
        counts = self._counts(self._recording.prefill(recording))
        return self._client.route(self._model, request, counts=counts).worker_id

    def _release(self, request: str, recording: int) -> None:
        decode = self._recording.decode(recording)
        duration = Duration()
        duration.FromNanoseconds(int(self._decode_s * 1e9))
        self._client.release(
            self._model,
            request,
            output_tokens=decode.stop - decode.start,
            decode_duration=duration,
            decode_counts=self._counts(decode),
        )

    def _report(self, running: deque[tuple[float, str, str, int]], number: int) -> None:
        for worker, incarnation in self._incarnation.items():
            held = [(r, recording) for _, r, w, recording in running if w == worker]
            used = [self._recording.counts_of(self._recording.decode(i)) for _, i in held]
            active = _active(used)
            report = fleet_pb2.ReportLoadRequest(
                model=self._model,
                worker_id=worker,
                incarnation=incarnation,
                report_number=number,
                running_sequences=len(held),
                active_experts=active,
                batch_size=len(held),
            )
            if held:
                report.step_time.FromNanoseconds(int((2 + active + 0.1 * len(held)) * 1e6))
            if worker in self._capturing:
                report.capture.state = fleet_pb2.CAPTURE_STATE_CAPTURING
                report.capture.known_tokens = 100 * number
            for request, _ in held:
                report.held.add(request_id=request)
            self._client.fleet.ReportLoad(report)


def _active(used: list[np.ndarray]) -> float:
    """Distinct experts per layer that a step of these requests is expected to use."""
    if not used:
        return 0.0
    unused = np.ones(used[0].shape)
    for each in used:
        tokens = each.sum(axis=1, keepdims=True) / 4
        unused *= 1 - np.minimum(each / tokens, 1)
    return float((1 - unused).sum(axis=1).mean())
