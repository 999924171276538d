"""A policy's own class and the daemon's router in one process: no daemon, no gRPC, no messages."""

from collections.abc import Hashable, Mapping

import numpy as np

from benchmarks.demos.demo.engines import CAPACITY
from benchmarks.demos.demo.settings import Setting
from benchmarks.demos.demo.workload import Workload
from eldr_service.core.activation import ActivationCounts
from eldr_service.core.booking import Booking
from eldr_service.core.ends import Ended
from eldr_service.core.worker import LoadReport, WorkerSpec, WorkerState
from eldr_service.lab.simulation.decode_pool import DecodePool, Finished
from eldr_service.policies.registry import create
from eldr_service.routing.call import RouteCall
from eldr_service.routing.router import Limits, Router
from eldr_service.routing.workers import Workers
from eldr_service.stores.sqlite import SqliteStore

MODEL = "demo"


class OneProcess:
    """Decides as the daemon does, with the same releases and reports."""

    def __init__(self, setting: Setting, work: Workload) -> None:
        self._recording, self._driven = work.recording, work.driven
        self._router = Router(
            lambda: create(setting.policy, setting.parameters),
            _Silent(),
            Limits(report_limit=float("inf")),
        )
        self._workers = Workers(self._router, SqliteStore(None), first_incarnation=0)
        self._lives = [
            self._workers.register(
                MODEL,
                WorkerSpec(
                    worker_id=f"decode-{rank}",
                    dp_rank=rank,
                    labels={"domain": label},
                    capacity_sequences=CAPACITY,
                ),
                WorkerState.READY,
                work.recording.geometry,
                0.0,
            )
            for rank, label in enumerate(work.oracle)
        ]
        self._router.model(MODEL).activate(setting.partition, {})
        self._reports = 0

    def choose(self, i: int, number: int, now: float) -> int:
        """Route the `number`-th request, which has the `i`-th driven recording."""
        call = RouteCall(
            model=MODEL,
            request_id=str(number),
            counts=self._counts(self._recording.prefill(int(self._driven[i]))),
            labels={"domain": str(self._recording.domains[self._driven[i]])},
        )
        return int(self._router.route(call, now).booking.worker_id.removeprefix("decode-"))

    def release(self, i: int, ended: Finished) -> None:
        """Release what an engine finished."""
        self._router.release(
            MODEL,
            str(ended.request_key),
            0,
            ended.end_s,
            output_tokens=ended.tokens,
            decode_seconds=ended.end_s - ended.first_token_s,
            decode_counts=self._counts(self._recording.decode(int(self._driven[i]))),
        )

    def report(self, pool: DecodePool, on_worker: Mapping[Hashable, int], now: float) -> None:
        """Let each engine report what it ran since its last report."""
        self._reports += 1
        for rank, life in enumerate(self._lives):
            recent = pool.recent(rank)
            held = tuple((str(number), 0) for number, at in on_worker.items() if at == rank)
            report = LoadReport(
                incarnation=life,
                number=self._reports,
                running_sequences=pool.held(rank),
                held=held,
                active_experts=float(np.nan_to_num(recent.active_experts)),
                batch_size=float(np.nan_to_num(recent.batch_size)),
                step_seconds=round(float(np.nan_to_num(recent.step_seconds)) * 1e9) / 1e9,
                step_active_experts=float(np.nan_to_num(recent.step_active_experts)),
            )
            self._workers.report(MODEL, f"decode-{rank}", report, now)

    def _counts(self, tokens: slice) -> ActivationCounts:
        return ActivationCounts(
            self._recording.geometry,
            0,
            self._recording.counts_of(tokens),
            tokens.stop - tokens.start,
        )


class _Silent:
    """An observer that ignores everything."""

    def ended(self, model: str, booking: Booking, how: Ended) -> None:
        """Ignored: the loop itself released the request."""

    def signatures_dropped(self, number: int, why: str) -> None:
        """Ignored: counts come with each call."""

    def worker_changed(self, model: str, row: int, state: WorkerState) -> None:
        """Ignored: workers do not change."""
