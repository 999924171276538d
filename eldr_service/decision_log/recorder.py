"""Records events for the writer; a decision only pays for what must be copied."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version

import structlog
from eldr.v1.decision_log_pb2 import LogRecord

from eldr_service.core.activation import Counts
from eldr_service.core.booking import Booking
from eldr_service.core.ends import Ended
from eldr_service.core.partition import Partition
from eldr_service.core.worker import Avoidance, LoadReport, WorkerSpec, WorkerState
from eldr_service.decision_log import snapshot, to_records
from eldr_service.decision_log.counts import Kept
from eldr_service.decision_log.writer import Make, Writer
from eldr_service.policies.policy import Policy
from eldr_service.policies.state import PolicyState
from eldr_service.routing.call import Known, RouteCall
from eldr_service.routing.journal import Journal
from eldr_service.routing.router import Router

_SIZE = 500  # bytes of an event in the queue, without its counts

log = structlog.get_logger(__name__)


class Recorder(Journal):
    """Writes a decision log.

    It is in sync from the first snapshot on, which `tick` takes. If the writer falls behind, it
    loses sync: events are lost until `tick` begins another file, whose header says so.

    Parameters
    ----------
    writer : Writer
    lost : callable (int)
        Told of events that went to no file.
    """

    def __init__(self, writer: Writer, lost: Callable[[int], None]) -> None:
        self._writer = writer
        self._tell_lost = lost
        self._run = secrets.token_hex(4)
        self._version = version("eldr-service")
        self._router: Router | None = None
        self._numbers: dict[str, int] = {}
        self._files = self._lost = 0
        self._in_step = False

    def watch(self, router: Router) -> None:
        """Record this router's decisions from the first `tick` on."""
        self._router = router

    def tick(self) -> None:
        """Begin another file if one is due; called several times per second."""
        if self._writer.is_broken:
            self._in_step = False
        if self._writer.is_full if self._in_step else self._writer.may_begin:
            self._begin()

    def close(self) -> None:
        """Write what is pending, and stop."""
        self._writer.close()

    # Journal

    def appeared(self, model: str, policy: Policy) -> None:
        """A model became known."""
        self._numbers[model] = max(self._numbers.values(), default=0) + 1
        self._tell(to_records.appeared, self._numbers[model], model, policy)

    def forgotten(self, model: str) -> None:
        """A model was forgotten."""
        self._tell(to_records.forgotten, self._numbers.pop(model))

    def joined(
        self, model: str, row: int, spec: WorkerSpec, state: WorkerState, incarnation: int,
        now: float,
    ) -> None:  # fmt: skip
        """A worker began a life."""
        self._tell(to_records.worker, self._numbers[model], now, row, spec, state, incarnation)

    def updated(self, model: str, row: int, spec: WorkerSpec, now: float) -> None:
        """A worker registered again in the same life."""
        assert self._router
        fleet = self._router.models[model].fleet
        self._tell(
            to_records.worker, self._numbers[model], now, row, spec, fleet.state(row),
            fleet.incarnation(row), None, True,
        )  # fmt: skip

    def stood(self, model: str, row: int, avoidance: Avoidance, relief: float) -> None:
        """A worker's standing changed."""
        self._tell(to_records.standing, self._numbers[model], row, avoidance, relief)

    def moved(self, model: str, row: int, state: WorkerState) -> None:
        """A worker's state changed."""
        self._tell(to_records.move, self._numbers[model], row, state)

    def reported(
        self, model: str, row: int, report: LoadReport, left_out: Sequence[Booking], now: float
    ) -> None:
        """A worker's report was accepted."""
        self._tell(to_records.report, self._numbers[model], now, row, report)

    def running(self, model: str, booking: Booking) -> None:
        """A worker has reported a booking for the first time."""
        self._tell(to_records.running, self._numbers[model], booking.request_id)

    def placed(
        self, model: str, call: RouteCall, known: Known, booking: Booking, now: float
    ) -> None:
        """A request was decided and booked."""
        counts = known.counts
        if counts is not None and call.counts is None:
            counts = counts.copy()  # late chunks of a held signature are added in place
        kept = None if counts is None else Kept(counts, known.top_k)
        self._tell(
            to_records.placement, self._numbers[model], now, call, known, kept, booking.row,
            booking.reason, size=_size(kept),
        )  # fmt: skip

    def completed(self, model: str, booking: Booking, counts: Counts) -> None:
        """A booking has its complete signature."""
        kept = Kept(counts.copy(), booking.top_k)  # the held signature may still change
        self._tell(
            to_records.completed, self._numbers[model], booking.request_id, booking.coverage, kept,
            size=_size(kept),
        )  # fmt: skip

    def ended(self, model: str, booking: Booking, how: Ended, now: float) -> None:
        """A booking ended."""
        counts = booking.decode_counts
        kept = None if counts is None else Kept(counts, booking.top_k)
        self._tell(
            to_records.end, self._numbers[model], now, booking.request_id, how,
            booking.output_tokens, booking.decode_seconds, kept, size=_size(kept),
        )  # fmt: skip

    def activated(self, model: str, partition: Partition, wishes: Mapping[str, int]) -> None:
        """A partition is in force."""
        size = _SIZE + partition.centroids.nbytes
        self._tell(to_records.partition, self._numbers[model], partition, dict(wishes), size=size)

    def policy_set(self, model: str, policy: Policy, learned: PolicyState) -> None:
        """A policy is in force, starting with what one of its name had learned."""
        size = _SIZE + sum(array.nbytes for array in learned.values())
        self._tell(to_records.policy, self._numbers[model], policy, learned, size=size)

    def _tell(self, make: Callable[..., LogRecord], *of: object, size: int = _SIZE) -> None:
        if not self._in_step:
            if self._files:  # before the first file there is no sync to lose
                self._lost += 1
                self._tell_lost(1)
        elif not self._writer.offer(size, partial(make, *of)):
            self._in_step = False
            self._lost += 1
            self._tell_lost(1)
            log.warning("decision log behind, with a gap", bytes=self._writer.pending_bytes)

    # Snapshots

    def _begin(self) -> None:
        assert self._router
        self._files += 1
        file, own_lost = self._files, self._lost
        limit = self._router.limits.report_limit

        def header(lost: int) -> LogRecord:
            return to_records.header(self._run, file, own_lost + lost, self._version, limit)

        records: list[Make] = []
        for name, model in self._router.models.items():
            records += snapshot.records_of(self._numbers[name], model)
        records.append(snapshot.end)
        begun = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")  # sorts by time
        self._writer.begin(f"decisions-{begun}-{self._run}-{file:06}.zst", header, records)
        self._lost = 0
        self._in_step = True


def _size(kept: Kept | None) -> int:
    return _SIZE + (kept.counts.nbytes if kept else 0)
