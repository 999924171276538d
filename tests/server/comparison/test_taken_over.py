"""What `marginal-cost` predicts of its workers' batches is what the comparison goes by."""

import math

import numpy as np
import pytest
from small_daemon import GEOMETRY, MODEL, SmallDaemon, counts_on

from eldr_service.core.worker import LoadReport
from eldr_service.policies.registry import create
from eldr_service.server.comparison.comparisons import Comparisons


@pytest.fixture
def daemon():
    comparisons = Comparisons(on=True)
    daemon = SmallDaemon(journal=comparisons)
    daemon.comparisons = comparisons
    comparisons.watch(daemon.router)
    comparisons.prepare()
    daemon.join("w0", "w1", geometry=GEOMETRY, capacity_sequences=64)
    daemon.model.set_policy(create("marginal-cost", {}))
    comparisons.look(daemon.now)
    return daemon


def predicted(daemon):
    """Of each worker's batch, by what the comparison tells of a report on it."""
    found = []
    for number, worker in enumerate(("w0", "w1")):
        before = daemon.comparisons.foretold(MODEL)
        before = before.predicted if before else 0.0
        held = daemon.booked()[worker]
        told = LoadReport(1, 1, active_experts=1.0, batch_size=float(held), step_seconds=0.01)
        daemon.comparisons.reported(MODEL, number, told, (), daemon.now)
        found.append(daemon.comparisons.foretold(MODEL).predicted - before)
    return found


def expected(daemon):
    return daemon.model.policy.experts.known.active(np.arange(2)).tolist()


def test_of_whole_signatures_of_none_and_of_parts_that_become_whole(daemon):
    for number in range(12):
        given = counts_on(number % 4) if number % 3 else None
        daemon.route(f"r{number}", counts=given)
    daemon.router.register_signature(
        MODEL, "part", 0, counts_on(2), total_chunks=2, fingerprint=1, now=daemon.now
    )
    daemon.route("part")
    assert predicted(daemon) == pytest.approx(expected(daemon), rel=1e-6)
    before = expected(daemon)
    daemon.router.register_signature(
        MODEL, "part", 0, counts_on(3), sequence=1, total_chunks=2, fingerprint=1, now=daemon.now
    )
    assert expected(daemon) != before
    assert predicted(daemon) == pytest.approx(expected(daemon), rel=1e-6)


def test_it_goes_on_where_another_policy_predicts_nothing(daemon):
    for number in range(8):
        daemon.route(f"r{number}", counts=counts_on(number % 4))
    daemon.model.set_policy(create("join-shortest-queue", {}))
    for number in range(8, 16):
        daemon.now += 1
        daemon.route(f"r{number}", counts=counts_on(number % 4))
    assert all(1 < active <= 4 for active in predicted(daemon))
    for number in range(16):
        daemon.now += 1
        daemon.router.release(MODEL, f"r{number}", 0, daemon.now)
    found = daemon.comparisons.of(MODEL)
    assert found.requests == 16
    assert 1 < found.active_experts <= 4
    assert math.isfinite(found.step_change)
