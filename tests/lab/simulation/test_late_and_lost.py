"""Reports and releases that come late, get lost or say less."""

from dataclasses import replace

import numpy as np
import pytest
from small_simulation import ONE, PARTITION, WORKLOAD, assert_same, run

from eldr_service.lab.simulation.simulate import simulate
from eldr_service.policies.marginal_cost import MarginalCost


class Watching(MarginalCost):
    """Keeps what it is told."""

    def __init__(self):
        super().__init__()
        self.reports, self.ends = [], []

    def on_reported(self, worker_id, report):
        self.reports.append((worker_id, report.number))
        super().on_reported(worker_id, report)

    def on_ended(self, booking, ended):
        self.ends.append((booking.request_id, booking.decode_counts is not None))
        super().on_ended(booking, ended)


def watched(**changed):
    policy = Watching()
    return simulate(WORKLOAD, policy, replace(ONE, **changed), PARTITION), policy


def test_none_late_none_lost_is_the_run_as_it_was():
    assert_same(run("marginal-cost"), run("marginal-cost", report_loss=0.0, release_delay_s=0.0))


def test_late_reports_all_come_in_their_order_and_change_what_is_decided():
    (prompt, early), (late, told) = watched(), watched(report_delay_s=0.03)
    assert prompt.worker.tolist() != late.worker.tolist()
    assert told.reports == early.reports[: len(told.reports)]
    assert len(early.reports) - len(told.reports) <= 12  # of the last 30 ms, and of a longer run


def test_a_share_of_the_reports_is_lost():
    (_, all_told), (_, some) = watched(), watched(report_loss=0.25)
    assert len(some.reports) / len(all_told.reports) == pytest.approx(0.75, abs=0.15)


def test_late_releases_hold_bookings_longer_and_lose_none():
    result, policy = watched(release_delay_s=0.05, report_interval_s=10.0)
    n = len(WORKLOAD.requests.times_s)
    assert sorted(int(request) for request, _ in policy.ends) == list(range(n))
    assert np.isfinite(result.end_s).all()


def test_a_share_of_the_releases_says_what_the_decode_activated():
    _, policy = watched(decode_counts_share=0.5)
    known = sum(known for _, known in policy.ends) / len(policy.ends)
    assert known == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("report_loss", 1.1), ("decode_counts_share", -0.1), ("report_delay_s", -1.0),
     ("release_delay_s", float("inf"))],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        replace(ONE, **{field: value})
