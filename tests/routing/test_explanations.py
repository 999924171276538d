"""How much is kept to be explained, that it stays as it was, and policies that misbehave."""

import numpy as np
import pytest
from small_daemon import SmallDaemon, counts_on

from eldr_service.core.decision import Decision
from eldr_service.core.errors import NotFoundError
from eldr_service.policies.policy import Policy
from eldr_service.routing.explanations import Explanations


def explain(daemon, request_id):
    return daemon.router.explain("model", request_id, None, daemon.now)


def test_old_decisions_are_dropped_by_number_and_by_bytes():
    daemon = SmallDaemon(explanations=50)
    daemon.join("a", "b", capacity_sequences=1_000)
    for number in range(120):
        daemon.route(f"r{number}", labels={"note": "x" * 200})
    kept = daemon.model.explanations
    assert len(kept) == 50
    assert explain(daemon, "r70").attempt == 0
    with pytest.raises(NotFoundError, match="explanations of the last 50 decisions are kept"):
        explain(daemon, "r69")
    few = daemon.model.explanations = Explanations(1_000, max_bytes=20_000)
    for number in range(200, 300):
        daemon.route(f"r{number}", labels={"note": "x" * 200})
    assert 5 < len(few) < 20
    assert explain(daemon, "r299").rule


def test_what_changes_later_does_not_change_what_was():
    daemon = SmallDaemon()
    daemon.join("a", "b", "c", "d")
    daemon.activate()
    for worker in "abcd":
        daemon.report(worker, 1)
    daemon.now += 2
    daemon.route("r", counts=counts_on(1))
    before = explain(daemon, "r")
    assert [score.report_age for score in before.scores] == [2.0] * 4
    assert before.partition_version == 1
    for number in range(9):
        daemon.route(f"other{number}")
        daemon.report("a", 2 + number)
    daemon.workers.drain("model", "b")
    daemon.activate(2)
    daemon.now += 60
    after = explain(daemon, "r")
    assert (after.scores, after.rule) == (before.scores, before.rule)
    assert "best similarity 1.000 (tau is 0.1 of the partition's spread): b" in after.rule
    assert "min_band 2 adds the next best: a (0.000)" in after.rule


class Odd(Policy):
    """Gives out arrays of other kinds, and cannot say why."""

    name = "odd"
    description = "for tests"

    def pick(self, request, fleet):
        strided = np.arange(2.0 * len(fleet.worker_ids))[::2]
        return Decision(1, similarity=strided / 8, cost=strided.astype(np.float32))

    def explain(self, request, fleet, decision):
        raise RuntimeError("no idea")


def test_a_policy_that_cannot_explain_itself_is_explained_plainly():
    daemon = SmallDaemon()
    daemon.join("a", "b", "c")
    daemon.model.set_policy(Odd())
    daemon.route("r")
    found = explain(daemon, "r")
    assert found.rule == "chosen by odd from 3 eligible workers: b at 0.00"
    assert [score.similarity for score in found.scores] == [0.0, 0.25, 0.5]
    assert [score.cost for score in found.scores] == [0.0, 2.0, 4.0]
