"""Long reports are taken in slices; what happens between two of them counts."""

from small_daemon import MODEL, SmallDaemon

from eldr_service.core.worker import LoadReport, WorkerSpec, WorkerState
from eldr_service.routing.journal import Journal
from eldr_service.routing.reports import SLICE, at_once

NUMBER = 3 * SLICE
IDS = [f"r{i}" for i in range(NUMBER)]


class LeftOut(Journal):
    """Keeps what is told of each report."""

    def __init__(self):
        self.told = []

    def reported(self, model, row, report, left_out, now):
        self.told.append((report.number, [booking.request_id for booking in left_out]))


def booked(journal=None):
    """A worker with many bookings, and what begins its reports."""
    daemon = SmallDaemon(journal=journal)
    daemon.join("w0", capacity_sequences=NUMBER + 8)
    for name in IDS:
        daemon.route(name)
    return daemon


def begin(daemon, number, names):
    report = LoadReport(daemon.incarnations["w0"], number, held=tuple((n, 0) for n in names))
    return daemon.workers.reporting(MODEL, "w0", report, daemon.now)


def seen(daemon):
    return {booking.request_id for booking in daemon.model.bookings if booking.seen_running}


def until(steps, holds):
    """Take steps until something holds."""
    while not holds():
        next(steps)


def accepted(daemon, number):
    return lambda: daemon.model.fleet.report_number(0) == number


def most_in_a_step(steps, count):
    """The most that a count changes by in one step, and what the steps come to."""
    most, before = 0, count()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return max(most, abs(count() - before)), end.value
        most, before = max(most, abs(count() - before)), count()


def test_each_step_looks_at_one_slice():
    daemon = booked()
    steps = begin(daemon, 1, [*IDS, "stranger"])
    most, taken = most_in_a_step(steps, lambda: len(seen(daemon)))
    assert (most, taken) == (SLICE, (True, [("stranger", 0)]))
    assert seen(daemon) == set(IDS)


def test_what_is_left_out_twice_ends_a_slice_at_a_time():
    daemon = booked()
    at_once(begin(daemon, 1, IDS))
    at_once(begin(daemon, 2, []))
    steps = begin(daemon, 3, [])
    most, taken = most_in_a_step(steps, lambda: len(daemon.model.bookings))
    assert (most, taken) == (SLICE, (True, []))
    assert not len(daemon.model.bookings)
    assert daemon.model.fleet.booked(0) == 0


def test_what_is_released_or_placed_between_two_steps_counts():
    daemon = booked()
    at_once(begin(daemon, 1, IDS))
    at_once(begin(daemon, 2, []))
    steps = begin(daemon, 3, [])
    until(steps, accepted(daemon, 3))
    daemon.router.release(MODEL, IDS[-1], 0, daemon.now)  # its end is not told again
    daemon.route("new")
    at_once(steps)
    assert [booking.request_id for booking in daemon.model.bookings] == ["new"]
    assert daemon.model.fleet.booked(0) == 1


def test_all_that_a_report_leaves_out_is_told_at_once_and_no_more():
    journal = LeftOut()
    daemon = booked(journal)
    at_once(begin(daemon, 1, IDS[1:]))
    steps = begin(daemon, 2, IDS[:2])
    next(steps)
    daemon.route("new")  # and was never listed, as IDS[0] was not
    at_once(steps)
    at_once(begin(daemon, 2, []))
    assert journal.told == [(1, []), (2, IDS[2:])]


def test_absences_of_two_reports_with_one_between_end_nothing():
    daemon = booked()
    at_once(begin(daemon, 1, IDS))
    at_once(begin(daemon, 2, []))
    earlier = begin(daemon, 3, IDS)
    until(earlier, accepted(daemon, 3))
    at_once(begin(daemon, 4, []))  # before the third was looked at to its end
    at_once(earlier)
    assert len(daemon.model.bookings) == NUMBER
    at_once(begin(daemon, 5, []))
    assert not len(daemon.model.bookings)


def test_what_a_report_lists_counts_though_a_later_one_has_come():
    daemon = booked()
    earlier = begin(daemon, 1, IDS)
    until(earlier, accepted(daemon, 1))
    daemon.now += 5
    assert at_once(begin(daemon, 2, IDS[-1:])) == (True, [])
    assert at_once(earlier) == (True, [])
    assert seen(daemon) == set(IDS)
    first, last = (daemon.model.bookings.live(name) for name in (IDS[0], IDS[-1]))
    assert last.expires_at == first.expires_at + 5  # an earlier report takes no lease back


def test_a_report_that_another_overtakes_is_late():
    daemon = booked()
    at_once(begin(daemon, 1, IDS))
    earlier = begin(daemon, 2, [])
    next(earlier)
    assert at_once(begin(daemon, 3, [])) == (True, [])
    assert at_once(earlier) == (False, [])
    assert len(daemon.model.bookings) == NUMBER


def test_the_rest_of_a_report_does_not_touch_the_workers_next_life():
    daemon = booked()
    earlier = begin(daemon, 1, IDS)
    until(earlier, accepted(daemon, 1))
    daemon.workers.remove(MODEL, "w0", 0, daemon.now)
    daemon.join("w0", capacity_sequences=4)
    daemon.route(IDS[SLICE], attempt=1)
    at_once(earlier)
    assert [(b.key, b.seen_running) for b in daemon.model.bookings] == [((IDS[SLICE], 1), False)]


def test_what_runs_without_a_booking_is_counted_over_all_slices():
    for counts_unbooked, foreign in ((False, 0), (True, NUMBER)):
        daemon = SmallDaemon()
        model = daemon.router.model_or_new(MODEL)
        spec = WorkerSpec("w0", capacity_sequences=8)
        row = model.join(spec, WorkerState.READY, 1, None, daemon.now, counts_unbooked)
        daemon.incarnations["w0"] = 1
        assert at_once(begin(daemon, 1, IDS)) == (True, [(name, 0) for name in IDS])
        assert model.fleet.record(row)["foreign"] == foreign
