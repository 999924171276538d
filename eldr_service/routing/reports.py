"""Takes in a worker's report; a long one in slices."""

from collections.abc import Collection, Generator, Iterator
from dataclasses import replace
from itertools import islice
from typing import NamedTuple, TypeVar

from eldr_service.core.booking import Booking
from eldr_service.core.ends import Ended
from eldr_service.core.worker import LoadReport, WorkerState
from eldr_service.routing.model import Model

SLICE = 500
"""Requests processed in one step, about a millisecond."""
T = TypeVar("T")
Steps = Generator[None, None, T]
"""Yields wherever others may run."""


class ReportTaken(NamedTuple):
    """The result of a worker's report.

    Attributes
    ----------
    moved_to : WorkerState or None
        None if the state is unchanged.
    unknown : list of (request_id, attempt)
        What it holds without a booking there.
    """

    moved_to: WorkerState | None
    unknown: list[tuple[str, int]]


def at_once(steps: Steps[T]) -> T:
    """Run all steps without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            done: T = end.value
            return done


def take_report(
    model: Model, row: int, report: LoadReport, now: float
) -> Steps[ReportTaken | None]:
    """Take in a worker's report; returns None if it is late or from another life.

    What it measured, and what it omits, counts from one moment on. If a later report comes before
    all steps are taken, bookings not yet reached do not count as omitted; if the worker's life
    ends, the rest is ignored.
    """
    fleet, bookings, worker_id = model.fleet, model.bookings, model.fleet.spec(row).worker_id
    held = report.held if isinstance(report.held, dict) else dict.fromkeys(report.held)

    def lives() -> bool:
        return model.lives(worker_id) == (row, report.incarnation)

    model.expire(now)
    if fleet.counts_unbooked(row):
        more = 0
        for turn, part in _slices(held):
            if turn:
                yield
            more += bookings.unbooked(row, part)
        report = replace(report, foreign_sequences=report.foreign_sequences + more)
    left_out: list[Booking] = []
    for turn, some in _slices(bookings.on_row(row)):
        if turn:
            yield
        left_out += [b for b in some if b.seen_running and b.key not in held]
    if not lives():
        return None
    capture, before = fleet.capture(row), fleet.report_number(row)
    if not model.take_numbers(row, replace(report, held=()), now, left_out):
        return None
    if report.state is WorkerState.GONE:
        model.remove(row, now)
        return ReportTaken(WorkerState.GONE, list(held))
    moved_to = fleet.state(row) if model.follow(row, report.state) else None
    if moved_to is None and report.capture and report.capture.differs(capture):
        model.observer.worker_changed(model.name, row, fleet.state(row))
    for turn, some in _slices(left_out):
        if turn:
            yield
        if not lives() or fleet.report_number(row) != report.number:
            break
        for booking in bookings.left_out(some, report.number, before):
            model.end(booking, Ended.REPORTED_GONE, now)
    taken = ReportTaken(moved_to, [])
    for turn, part in _slices(held):
        if turn:
            yield
        if not lives():
            break
        started, unknown = bookings.listed(row, part, now)
        taken.unknown.extend(unknown)
        for booking in started:
            model.running(booking)
    return taken


def _slices(items: Collection[T]) -> Iterator[tuple[bool, list[T]]]:
    """Items in slices, and whether others may run before each."""
    rest, is_long = iter(items), len(items) > SLICE
    while part := list(islice(rest, SLICE)):
        yield is_long, part
