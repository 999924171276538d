"""A worker's side: registers it, reports its load, deregisters it at the end."""

import logging
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import grpc
from eldr.v1.activation_pb2 import ModelGeometry
from eldr.v1.fleet_pb2 import (
    HeldRequest,
    RegisterWorkerRequest,
    ReportLoadRequest,
    WorkerCapacity,
    WorkerRole,
    WorkerState,
)
from eldr.v1.fleet_pb2_grpc import FleetServiceStub

from eldr_client.capture import CaptureStatus
from eldr_client.channel import DEFAULT_TARGET, Endpoint
from eldr_client.errors import EldrError, NotFoundError, from_rpc_error
from eldr_client.messages import duration

logger = logging.getLogger("eldr_client")

_RETRY_PAUSE = 0.25  # seconds
_DRAWN = 1 << 48  # lower incarnations are assigned by routers


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a worker runs at the moment.

    `held` are the (request_id, attempt) that it runs or queues. `active_experts` (distinct, per
    layer and step, mean over generated tokens), `batch_size` (sequences, mean over steps),
    `step_time` (seconds, likewise) and `step_active_experts` (likewise) are since the last report;
    0 means unknown. `capture` is the state of the worker's capture; None means no news.
    """

    running_sequences: int = 0
    waiting_sequences: int = 0
    kv_tokens_used: int = 0
    kv_tokens_total: int = 0
    held: Sequence[tuple[str, int]] = ()
    foreign_sequences: int = 0
    active_experts: float = 0.0
    batch_size: float = 0.0
    step_time: float = 0.0
    step_active_experts: float = 0.0
    capture: CaptureStatus | None = None


class WorkerSession:
    """Keeps one worker registered and reports its load, in a thread of its own.

    A router that does not answer is retried every quarter of a second; one that has forgotten the
    worker learns of it with the next report. Of several replicas one gets everything, and another
    takes its place if it is lost.

    Parameters
    ----------
    worker_id, model, url : str
        The worker's id, the model it serves, and its URL.
    report : callable without arguments -> LoadReport
        Called in the session's thread before each report. Until the worker is ready only its
        `capture` is sent, and it may raise.
    role : {"DECODE", "PREFILL"}
    dp_rank, group, labels : int, str, mapping of str to str
        As in RegisterWorkerRequest.
    max_sequences, max_kv_tokens : int
        Capacity; 0 means the router's default, or unknown.
    geometry : (num_layers, num_experts, top_k), optional
    ready : bool
        False registers as JOINING: nothing is placed on the worker until `set_ready`.
    time_to_live : float
        Seconds of silence after which the router treats the worker as gone; 0 means never.
    target, token, root_certificates, client_key, client_certificate, tls
        As for RouterClient; the token needs the role worker.
    timeout : float
        Deadline of each call, in seconds.
    """

    def __init__(
        self,
        worker_id: str,
        model: str,
        url: str,
        report: Callable[[], LoadReport] = LoadReport,
        *,
        role: str = "DECODE",
        dp_rank: int = 0,
        group: str = "",
        labels: Mapping[str, str] | None = None,
        max_sequences: int = 0,
        max_kv_tokens: int = 0,
        geometry: tuple[int, int, int] | None = None,
        ready: bool = True,
        time_to_live: float = 30.0,
        target: str = DEFAULT_TARGET,
        token: str | None = None,
        root_certificates: bytes | None = None,
        client_key: bytes | None = None,
        client_certificate: bytes | None = None,
        tls: bool = False,
        timeout: float = 1.0,
    ) -> None:
        self._registration = RegisterWorkerRequest(
            worker_id=worker_id,
            model=model,
            role=WorkerRole.Value(f"WORKER_ROLE_{role}"),
            url=url,
            dp_rank=dp_rank,
            group=group,
            labels=labels,
            capacity=WorkerCapacity(sequences=max_sequences, kv_tokens=max_kv_tokens),
            geometry=geometry and ModelGeometry(**dict(zip(_GEOMETRY, geometry, strict=True))),
            time_to_live=duration(time_to_live),
        )
        self._report = report
        self._timeout = timeout
        self._endpoint = Endpoint(
            target,
            token=token,
            root_certificates=root_certificates,
            client_key=client_key,
            client_certificate=client_certificate,
            tls=tls,
        )
        self._channel = self._endpoint.open(sticky=True)
        self._stub = FleetServiceStub(self._channel)
        # Drawn here: a registration whose answer is lost can be repeated, and a router that forgot
        # the worker learns that it is not a new one.
        self._registration.incarnation = _DRAWN + secrets.randbelow((1 << 63) - _DRAWN)
        self._incarnation = 0
        self._drained = threading.Event()
        self._number = 0
        self._interval = 1.0
        self._ready = threading.Event()
        if ready:
            self._ready.set()
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="eldr-worker", daemon=True)
        self._thread.start()

    @property
    def incarnation(self) -> int:
        """The number of this incarnation of the worker; 0 while not registered."""
        return self._incarnation

    @property
    def drained(self) -> bool:
        """Whether the router drains the worker and has nothing booked on it: it may be closed."""
        return self._drained.is_set()

    def set_ready(self) -> None:
        """Serve from now on; the router is told at once."""
        self._ready.set()
        self._wake.set()

    def close(self) -> None:
        """Stop reporting and deregister."""
        self._closing = True
        self._wake.set()
        self._thread.join()
        if self._incarnation:
            try:
                self._send(LoadReport(), WorkerState.WORKER_STATE_GONE)
            except EldrError as error:
                worker = self._registration.worker_id
                logger.info("worker %s is left to expire: %s", worker, error)
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _loop(self) -> None:
        trouble = ""
        while not self._closing:
            self._wake.clear()
            found = ""
            try:
                found = self._step()
            except EldrError as error:
                found = str(error)
            except Exception as error:
                # The report is the engine's code. A worker must not vanish because it fails once.
                logger.exception("worker %s has no report", self._registration.worker_id)
                found = str(error)
            if found and found != trouble:  # once, not at every interval
                logger.warning("worker %s: %s", self._registration.worker_id, found)
            trouble = found
            self._wake.wait(min(self._interval, _RETRY_PAUSE) if found else self._interval)

    def _step(self) -> str:
        """Register if need be, then report; returns what went wrong, or empty."""
        ready = self._ready.is_set()
        state = WorkerState.WORKER_STATE_READY if ready else WorkerState.WORKER_STATE_JOINING
        if not self._incarnation:
            self._register(state)
        load = self._report() if ready else self._report_of_joining()
        try:
            accepted = self._send(load, state)
        except NotFoundError:  # the router restarted, or took us for gone
            self._register(state)
            accepted = self._send(load, state)
        return "" if accepted else "reports are ignored; has another process registered this id?"

    def _report_of_joining(self) -> LoadReport:
        """The capture state of a worker that has no load yet and may not be able to report more."""
        try:
            return LoadReport(capture=self._report().capture)
        except Exception:  # the engine's code; a joining worker must not vanish because of it
            worker = self._registration.worker_id
            logger.debug("worker %s has no report before it is ready", worker, exc_info=True)
            return LoadReport()

    def _register(self, state: WorkerState) -> None:
        self._registration.state = state
        answer = self._call("RegisterWorker", self._registration)
        if answer.incarnation != self._incarnation:
            self._incarnation, self._number = answer.incarnation, 0
        self._take_interval(answer)

    def _send(self, load: LoadReport, state: WorkerState) -> bool:
        self._number += 1
        values = {name: getattr(load, name) for name in _AS_THEY_ARE}
        if load.capture:  # kept for a router that has forgotten the worker
            self._registration.capture.CopyFrom(load.capture.to_proto())
            values["capture"] = self._registration.capture
        answer = self._call(
            "ReportLoad",
            ReportLoadRequest(
                model=self._registration.model,
                worker_id=self._registration.worker_id,
                incarnation=self._incarnation,
                report_number=self._number,
                held=[HeldRequest(request_id=name, attempt=attempt) for name, attempt in load.held],
                step_time=duration(load.step_time),
                state=state,
                **values,
            ),
        )
        self._take_interval(answer)
        (self._drained.set if answer.drained else self._drained.clear)()
        return bool(answer.accepted)

    def _take_interval(self, answer: Any) -> None:
        self._interval = answer.report_interval.ToTimedelta().total_seconds() or self._interval

    def _call(self, method: str, request: Any) -> Any:
        try:
            return getattr(self._stub, method)(
                request, timeout=self._timeout, metadata=self._endpoint.metadata
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error


_GEOMETRY = ("num_layers", "num_experts", "top_k")
_AS_THEY_ARE = (
    "running_sequences",
    "waiting_sequences",
    "kv_tokens_used",
    "kv_tokens_total",
    "foreign_sequences",
    "active_experts",
    "batch_size",
    "step_active_experts",
)
