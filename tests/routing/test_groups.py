"""Groups: which decode workers may take what a prefill worker has prefilled."""

import pytest
from small_daemon import SmallDaemon

from eldr_service.core.errors import ResourceExhaustedError, UnavailableError
from eldr_service.core.worker import Avoidance, WorkerRole
from eldr_service.policies.registry import create

MODEL = "model"


def daemon_of(**limits):
    """A prefill worker and two decode workers of each revision."""
    daemon = SmallDaemon(**limits)
    for revision in "ab":
        daemon.join(f"p-{revision}", role=WorkerRole.PREFILL, group=revision)
        daemon.join(f"d-{revision}0", f"d-{revision}1", group=revision, capacity_sequences=2)
    daemon.model.set_policy(create("join-shortest-queue", {}))
    return daemon


def placed(daemon, *names, prefill="p-a"):
    return [daemon.route(name, prefill_worker=prefill).worker_id for name in names]


def test_a_revision_keeps_to_itself():
    daemon = daemon_of()
    assert sorted(placed(daemon, *"1234")) == ["d-a0", "d-a0", "d-a1", "d-a1"]
    with pytest.raises(ResourceExhaustedError, match="all 2 eligible workers"):
        daemon.route("5", prefill_worker="p-a")
    assert placed(daemon, "6", prefill="p-b") == ["d-b0"]
    for name in ("d-a0", "d-a1"):
        daemon.workers.remove(MODEL, name, 0, daemon.now)
    with pytest.raises(UnavailableError):
        daemon.route("7", prefill_worker="p-a")


def test_other_revisions_take_what_its_own_cannot_where_that_is_configured():
    daemon = daemon_of(other_groups=True)
    assert sorted(placed(daemon, *"123456")) == sorted(["d-a0", "d-a1"] * 2 + ["d-b0", "d-b1"])
    scores = daemon.route("why", prefill_worker="p-b", explain=True).scores
    why = {score.worker_id: score.ineligible_reason for score in scores}
    assert "at its capacity" in why["d-a0"]
    assert why["d-b0"] == why["d-b1"] == ""


def test_the_own_group_is_preferred_to_all_but_its_suspects():
    daemon = daemon_of(other_groups=True)
    fleet = daemon.model.fleet
    for name in ("d-a0", "d-a1"):
        fleet.set_standing(fleet.row(name), Avoidance.HELD_DOWN, 1.0)
    answer = daemon.route("1", prefill_worker="p-a", explain=True)
    names = [target.worker_id for target in answer.booking.targets]
    assert names == ["d-a0", "d-a1", "d-b0", "d-b1"]
    why = {score.worker_id: score.ineligible_reason for score in answer.scores}
    assert why["d-b0"] == "it is not in the prefill worker's group, which can take the request"
    fleet.set_standing(fleet.row("d-a1"), Avoidance.SUSPECT, 1.0)
    answer = daemon.route("2", prefill_worker="p-a")
    names = [target.worker_id for target in answer.targets]
    assert names == ["d-a0", "d-b0", "d-b1", "d-a1"]


def test_what_a_prefill_worker_has_prefilled_keeps_its_group_when_it_leaves():
    daemon = daemon_of()
    daemon.workers.remove(MODEL, "p-a", 0, daemon.now)
    assert sorted(placed(daemon, *"1234")) == ["d-a0", "d-a0", "d-a1", "d-a1"]


def test_an_attempt_pinned_to_another_group_goes_by_the_same_rule():
    moved = {"prefill_worker": "p-a", "pinned_worker": "d-b0", "attempt": 1}
    preferring, strict = daemon_of(other_groups=True), daemon_of()
    for daemon in (preferring, strict):
        daemon.route("1", prefill_worker="p-a")
    assert preferring.route("1", **moved).worker_id == "d-b0"
    with pytest.raises(UnavailableError):
        strict.route("1", **moved)
    assert strict.model.bookings.live("1").attempt == 0
