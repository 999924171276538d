"""Which workers are preferred: silence, flapping, slowness, and how each of them ends."""

from itertools import count

import numpy as np
import pytest
from small_daemon import SmallDaemon

from eldr_service.core.errors import FailedPreconditionError, NotFoundError
from eldr_service.core.flapping import HALF_LIFE_SECONDS, Flapping
from eldr_service.core.worker import Avoidance, LoadReport, WorkerRole, WorkerSpec, WorkerState
from eldr_service.policies.registry import create
from eldr_service.routing.pace import PATIENCE, Pace
from eldr_service.routing.router import ReleaseOutcome

MODEL = "model"
NUMBERS = count()


def daemon_of(*workers, policy="join-shortest-queue", **fields):
    daemon = SmallDaemon()
    daemon.join(*workers, **fields)
    daemon.model.set_policy(create(policy, {}))
    return daemon


def tick(daemon, seconds=0.0):
    daemon.now += seconds
    daemon.workers.remove_silent(daemon.router.tick(daemon.now), daemon.now)


def avoidance(daemon, worker):
    return daemon.model.fleet.avoidance(daemon.model.fleet.row(worker))


# Silence


def test_a_silent_worker_is_suspect_then_gone_and_keeps_its_bookings_between():
    daemon = daemon_of("w0", "w1", time_to_live=30.0)
    booking = daemon.route("before", pinned_worker="w0")
    number = 0
    for _ in range(11):
        number += 1
        daemon.report("w1", number)
        tick(daemon, 1.0)
    assert avoidance(daemon, "w0") is Avoidance.SUSPECT
    assert [daemon.route(f"r{i}").worker_id for i in range(4)] == ["w1"] * 4
    assert daemon.route("nobody-else").worker_id == "w0"  # w1 is full
    assert daemon.model.bookings.find("before", 0) is booking
    daemon.report("w1", number + 1)
    tick(daemon, 19.5)
    assert "w0" not in daemon.model.fleet
    assert daemon.model.bookings.find("before", 0) is None


def test_a_suspect_is_back_with_its_next_report():
    daemon = daemon_of("w0", "w1", time_to_live=30.0)
    tick(daemon, 9.0)
    daemon.report("w1", 1)
    tick(daemon, 2.0)
    assert avoidance(daemon, "w0") is Avoidance.SUSPECT
    daemon.report("w0", 1)
    assert avoidance(daemon, "w0") is Avoidance.NONE
    assert daemon.route("r").worker_id == "w0"


def test_a_worker_that_never_said_it_would_report_is_not_suspect():
    daemon = daemon_of("w0", "w1")
    tick(daemon, 1_000.0)
    assert avoidance(daemon, "w0") is Avoidance.NONE


def test_when_all_are_suspect_all_are_taken():
    daemon = daemon_of("w0", "w1", time_to_live=30.0)
    tick(daemon, 11.0)
    assert [daemon.route(f"r{i}").worker_id for i in range(2)] == ["w0", "w1"]


def test_what_could_not_be_heard_is_not_held_against_workers():
    daemon = daemon_of("w0", time_to_live=30.0)
    daemon.now += 100.0
    daemon.router.deaf(99.0)
    tick(daemon)
    assert avoidance(daemon, "w0") is Avoidance.NONE
    tick(daemon, 30.0)
    assert MODEL not in daemon.router.models or "w0" not in daemon.model.fleet


def test_suspects_come_after_others_among_the_alternates_and_explanations_say_why():
    daemon = daemon_of("w0", "w1", "w2", time_to_live=30.0)
    tick(daemon, 9.0)
    daemon.report("w1", 1)
    daemon.report("w2", 1)
    tick(daemon, 2.0)
    placed = daemon.route("r", explain=True)
    assert [target.worker_id for target in placed.booking.targets] == ["w1", "w2", "w0"]
    why = {score.worker_id: score.ineligible_reason for score in placed.scores}
    assert why["w1"] == why["w2"] == ""
    assert "silent for too long" in why["w0"]
    kept = daemon.router.explain(MODEL, "r", None, daemon.now)
    assert [s.ineligible_reason for s in kept.scores] == [why[w] for w in ("w0", "w1", "w2")]


# Failures


def fail(daemon, worker, requests, outcome=ReleaseOutcome.FAILED):
    """Have a worker end requests."""
    for _ in range(requests):
        name = f"of {worker} {next(NUMBERS)}"
        daemon.route(name, pinned_worker=worker)
        daemon.router.release(MODEL, name, 0, daemon.now, outcome=outcome)


def test_a_worker_that_fails_its_requests_attracts_no_more_of_them():
    daemon = daemon_of("w0", "w1")
    daemon.route("running", pinned_worker="w1")
    fail(daemon, "w0", 2)
    assert daemon.route("third").worker_id == "w0"  # it has more room
    daemon.router.release(MODEL, "third", 0, daemon.now, outcome=ReleaseOutcome.FAILED)
    assert avoidance(daemon, "w0") is Avoidance.SUSPECT
    assert daemon.route("next").worker_id == "w1"
    assert daemon.route("last choice", exclude_workers=["w1"]).worker_id == "w0"


def test_only_failures_in_a_row_count_and_callers_that_gave_up_say_nothing():
    daemon = daemon_of("w0", "w1")
    fail(daemon, "w0", 2)
    fail(daemon, "w0", 1, ReleaseOutcome.COMPLETED)
    fail(daemon, "w0", 2)
    fail(daemon, "w0", 5, ReleaseOutcome.CANCELLED)
    assert avoidance(daemon, "w0") is Avoidance.NONE
    fail(daemon, "w0", 1)
    assert avoidance(daemon, "w0") is Avoidance.SUSPECT


@pytest.mark.parametrize("sign", ["report", "completed", "time", "new life"])
def test_a_worker_that_failed_is_back(sign):
    daemon = daemon_of("w0", "w1")
    fail(daemon, "w0", 3)
    tick(daemon, 9.0)
    assert avoidance(daemon, "w0") is Avoidance.SUSPECT
    if sign == "report":
        daemon.report("w0", 1)
    elif sign == "completed":
        fail(daemon, "w0", 1, ReleaseOutcome.COMPLETED)
    elif sign == "time":
        tick(daemon, 1.0)
    else:
        daemon.join("w0")
    assert avoidance(daemon, "w0") is Avoidance.NONE
    fail(daemon, "w0", 2)
    assert avoidance(daemon, "w0") is Avoidance.NONE  # they are counted anew


def test_a_worker_that_reports_and_fails_all_is_held_down():
    daemon = daemon_of("w0", "w1")
    for number in range(4):
        fail(daemon, "w0", 3)
        daemon.report("w0", number)
    assert avoidance(daemon, "w0") is Avoidance.HELD_DOWN


def test_a_row_does_not_pass_failures_on():
    daemon = daemon_of("w0", "w1")
    daemon.route("later", pinned_worker="w0")
    booking = daemon.model.bookings.find("later", 0)
    fail(daemon, "w0", 3)
    daemon.workers.remove(MODEL, "w0", 0, daemon.now)
    tick(daemon, 20.0)
    daemon.join("w2")
    assert daemon.model.fleet.row("w2") == booking.row
    for _ in range(3):
        daemon.model.judge(booking, True, daemon.now)
    assert avoidance(daemon, "w2") is Avoidance.NONE


# Flapping


def test_one_restart_costs_nothing_and_a_crash_loop_is_held_down_for_longer_and_longer():
    flapping = Flapping(60.0)
    held = [flapping.joined("w", now=10.0 * i) for i in range(10)]
    assert held[:2] == [0.0, 0.0]
    assert held[2] > 3
    assert held[2:] == sorted(held[2:])
    assert max(held) == 60.0
    assert flapping.joined("another", now=100.0) == 0.0


def test_a_hold_down_decays_and_is_bounded():
    flapping = Flapping(60.0)
    for i in range(1_000):
        held = flapping.joined("w", now=float(i))
    assert held == 60.0
    quiet = 1_000.0 + 5 * HALF_LIFE_SECONDS
    assert flapping.penalty("w", quiet) < 0.25
    assert flapping.joined("w", quiet) == 0.0


def test_a_worker_that_flaps_is_avoided_until_its_time_is_over():
    daemon = daemon_of("w0", "w1")
    for _ in range(3):
        daemon.report("w0", 1, state=WorkerState.GONE)
        assert "w0" not in daemon.model.fleet
        daemon.join("w0")
    assert avoidance(daemon, "w0") is Avoidance.HELD_DOWN
    assert daemon.booked() == {"w0": 0, "w1": 0}
    assert daemon.route("r").worker_id == "w1"
    assert daemon.route("only", pinned_worker="w0").worker_id == "w0"
    tick(daemon, 9.0)
    assert avoidance(daemon, "w0") is Avoidance.NONE


def test_what_leaves_in_good_order_is_as_good_as_new():
    daemon = daemon_of("w0", "w1")
    for _ in range(6):
        daemon.workers.remove(MODEL, "w0", 0, daemon.now)
        daemon.join("w0")
        assert avoidance(daemon, "w0") is Avoidance.NONE
        daemon.workers.drain(MODEL, "w0")
        daemon.report("w0", 1, state=WorkerState.GONE)
        daemon.join("w0")
    assert avoidance(daemon, "w0") is Avoidance.NONE


def test_a_worker_that_falls_silent_again_and_again_is_held_down_without_losing_a_booking():
    daemon = daemon_of("w0", "w1", time_to_live=30.0)
    daemon.route("r", pinned_worker="w0", lease_seconds=1_000.0)
    for number in range(1, 4):
        tick(daemon, 11.0)
        daemon.report("w0", number, held=(("r", 0),))
    assert avoidance(daemon, "w0") is Avoidance.HELD_DOWN
    assert daemon.booked()["w0"] == 1


# The same life


def test_the_same_life_keeps_its_bookings_counts_and_slot():
    daemon = daemon_of("w0", "w1", "w2", "w3", policy="locality-band")
    daemon.activate()
    life = daemon.incarnations["w2"]
    daemon.route("r", pinned_worker="w2")
    daemon.report("w2", 5, held=(("r", 0),), foreign_sequences=1)
    slots, row = daemon.slots(), daemon.model.fleet.row("w2")
    spec = WorkerSpec("w2", capacity_sequences=8, labels={"zone": "b"}, url="http://moved")
    again = daemon.workers.register(
        MODEL, spec, WorkerState.JOINING, None, daemon.now, incarnation=life
    )
    assert again == life
    assert (daemon.model.fleet.row("w2"), daemon.slots()) == (row, slots)
    assert daemon.booked()["w2"] == 1
    assert daemon.model.fleet.state(row) is WorkerState.READY
    assert daemon.model.fleet.load(row, daemon.now) == 2 / 8
    assert daemon.route("there", worker_selector={"zone": "b"}).targets[0].url == "http://moved"
    assert not daemon.report("w2", 5)[0]  # a late report stays late
    assert daemon.report("w2", 6, held=(("r", 0),))[0]
    assert daemon.workers.told(MODEL, "w2") == (WorkerState.READY, False)


def test_another_life_begins_with_nothing():
    daemon = daemon_of("w0")
    daemon.route("r")
    daemon.workers.register(
        MODEL, WorkerSpec("w0"), WorkerState.READY, None, daemon.now, incarnation=1 << 50
    )
    assert daemon.booked() == {"w0": 0}
    assert daemon.model.fleet.incarnation(0) == 1 << 50
    daemon.join("w1")
    assert daemon.incarnations["w1"] < 1 << 48


def test_a_drain_goes_on_through_a_registration_of_the_same_life():
    daemon = daemon_of("w0", "w1")
    daemon.workers.drain(MODEL, "w0")
    life = daemon.incarnations["w0"]
    spec, ready = WorkerSpec("w0"), WorkerState.READY
    daemon.workers.register(MODEL, spec, ready, None, daemon.now, incarnation=life)
    assert daemon.workers.told(MODEL, "w0") == (WorkerState.DRAINING, True)


def test_a_role_is_for_life():
    daemon = daemon_of("w0")
    life = daemon.incarnations["w0"]
    prefill = WorkerSpec("w0", WorkerRole.PREFILL)
    with pytest.raises(FailedPreconditionError, match="w0 of model is DECODE for this life"):
        daemon.workers.register(
            MODEL, prefill, WorkerState.READY, None, daemon.now, incarnation=life
        )


def test_a_worker_that_was_forgotten_is_not_flooded_when_it_returns():
    """What it holds is load from its first report on, and before that nothing is placed on it."""
    daemon = daemon_of("w0", "w1", time_to_live=5.0)
    life = daemon.incarnations["w0"]
    for name in ("a", "b", "c"):
        daemon.route(name, pinned_worker="w0")
    daemon.report("w1", 1)
    tick(daemon, 4.0)
    daemon.report("w1", 2)
    tick(daemon, 2.0)
    assert "w0" not in daemon.model.fleet
    spec = WorkerSpec("w0", capacity_sequences=4, time_to_live=5.0)
    assert life == daemon.workers.register(
        MODEL, spec, WorkerState.READY, None, daemon.now, incarnation=life
    )
    assert daemon.route("meanwhile").worker_id == "w1"
    daemon.incarnations["w0"] = life
    held = tuple((name, 0) for name in "abc")
    accepted, unknown = daemon.report("w0", 1, held=held)
    assert accepted
    assert unknown == list(held)
    fleet = daemon.model.fleet
    assert fleet.load(fleet.row("w0"), daemon.now) == 3 / 4
    assert daemon.route("after").worker_id == "w1"
    daemon.router.release(MODEL, "a", 0, daemon.now)  # it was called off: no load any more
    daemon.report("w0", 2, held=held)
    assert fleet.load(fleet.row("w0"), daemon.now) == 2 / 4


# Drains


def test_a_drain_ends_what_is_left_at_its_deadline():
    daemon = daemon_of("w0", "w1")
    daemon.route("done", pinned_worker="w0")
    daemon.route("left", pinned_worker="w0")
    assert daemon.workers.drain(MODEL, "w0", until=daemon.now + 5.0) == 2
    daemon.router.release(MODEL, "done", 0, daemon.now)
    tick(daemon, 4.9)
    assert daemon.workers.told(MODEL, "w0") == (WorkerState.DRAINING, False)
    tick(daemon, 0.2)
    assert daemon.workers.told(MODEL, "w0") == (WorkerState.DRAINING, True)
    ended = daemon.model.bookings.how_ended("left", 0)
    assert (ended.name, ended.final) == ("DRAINED", False)
    assert daemon.route("left", 1).worker_id == "w1"
    assert daemon.booked() == {"w0": 0, "w1": 1}


def test_a_drained_worker_goes_where_that_was_asked_for():
    daemon = daemon_of("w0", "w1")
    daemon.route("r", pinned_worker="w0")
    daemon.workers.drain(MODEL, "w0", remove=True)
    tick(daemon, 1.0)
    assert "w0" in daemon.model.fleet
    daemon.router.release(MODEL, "r", 0, daemon.now)
    tick(daemon, 1.0)
    assert "w0" not in daemon.model.fleet
    with pytest.raises(NotFoundError):
        daemon.workers.drain(MODEL, "w0")


def test_a_drain_and_its_deadline_survive_a_restart():
    daemon = daemon_of("w0", "w1")
    daemon.workers.drain(MODEL, "w0", until=daemon.now + 5.0, remove=True)
    again = SmallDaemon(store=daemon.store)
    again.chosen.restore(again.now)
    drain = again.model.drains.of(again.model.fleet.row("w0"))
    assert drain.remove
    assert drain.until == pytest.approx(again.now + 5.0, abs=0.1)
    assert again.workers.told(MODEL, "w0") == (WorkerState.DRAINING, True)
    assert again.model.drains.of(again.model.fleet.row("w1")) is None


# Pace


def pace_of(factors, reports, noise=0.2, seed=0, experts=True):
    """Paces and reliefs after so many reports of workers whose steps take `factor` times as long.

    A step costs 8 + experts + sequences / 10, off by `noise`; batches and experts vary.
    """
    rng, pace = np.random.default_rng(seed), Pace(4.0)
    flagged = 0
    for number in range(reports):
        for row, factor in enumerate(factors):
            batch = float(rng.integers(4, 40))
            active = float(32 * (1 - np.exp(-batch / 16)))
            off = np.exp(rng.normal(0.0, noise))
            report = LoadReport(
                1,
                number,
                batch_size=batch,
                step_seconds=1e-3 * factor * off * (8 + active + batch / 10),
                step_active_experts=active if experts else 0.0,
            )
            pace.reported(row, WorkerSpec(f"w{row}"), report, float(number))
            flagged += pace.relief(row)[0] > 1
    return pace, flagged


@pytest.mark.parametrize("experts", [True, False])
@pytest.mark.parametrize("peers", [2, 4, 16])
def test_the_slow_one_of_several_is_found_by_its_own_steps(peers, experts):
    pace, _ = pace_of([1.0] * (peers - 1) + [2.0], reports=80, experts=experts)
    reliefs = [pace.relief(row)[0] for row in range(peers)]
    assert reliefs[:-1] == [1.0] * (peers - 1)
    assert reliefs[-1] > 2.5
    assert pace.of(peers - 1) == pytest.approx(2.0, rel=0.25)


@pytest.mark.parametrize("experts", [True, False])
def test_noise_makes_no_worker_slow(experts):
    """Half an hour of 16 equal workers whose reports are off by 20%: not once."""
    assert pace_of([1.0] * 16, reports=1_800, experts=experts)[1] == 0


def test_a_worker_far_slower_is_a_last_resort_and_comes_back_when_it_recovers():
    rng, pace, spec = np.random.default_rng(0), Pace(4.0), WorkerSpec("w0")

    def go(number, factor, batch=16.0):
        for row, of in ((0, factor), (1, 1.0), (2, 1.0)):
            of *= np.exp(rng.normal(0.0, 0.1))
            size = batch if row == 0 else 16.0
            said = LoadReport(1, number, batch_size=size, step_seconds=of * (8 + size / 10))
            pace.reported(row, WorkerSpec(f"w{row}"), said, float(number))

    for number in range(80):
        go(number, 6.0)
    assert pace.relief(0) == (4.0, True)
    for number in range(80, 400):  # it gets nothing: what is known of it fades
        go(number, 1.0, batch=0.0)
        if number >= 380:  # and it stays so, report by report
            assert pace.relief(0) == (1.0, False)
    for number in range(400, 440):
        go(number, 6.0)
    assert pace.relief(0)[0] == 4.0
    for number in range(440, 560):
        go(number, 1.0)
    assert pace.relief(0) == (1.0, False)
    assert spec.worker_id == "w0"


def test_unlike_hardware_is_compared_with_its_own_kind_alone():
    pace = Pace(4.0)
    for number in range(100):
        for row in range(4):
            kind, factor = ("a", 1.0) if row < 2 else ("b", 3.0)
            said = LoadReport(1, number, batch_size=16.0, step_seconds=factor)
            spec = WorkerSpec(f"w{row}", labels={"hardware": kind})
            pace.reported(row, spec, said, float(number))
    assert [pace.relief(row)[0] for row in range(4)] == [1.0] * 4
    assert PATIENCE < 100


def test_policies_see_the_relieved_load_and_marginal_cost_counts_a_pace_once():
    daemon = daemon_of("w0", "w1", capacity_sequences=100)
    fleet = daemon.model.fleet
    daemon.route("r", pinned_worker="w0")
    before = daemon.model.snapshot(daemon.now)
    fleet.set_standing(0, Avoidance.NONE, 4.0)
    after = daemon.model.snapshot(daemon.now)
    assert after.load.tolist() == [pytest.approx((4 * 2 - 1) / 100), 0.0]  # one more, times 4
    assert after.sequences.tolist() == before.sequences.tolist()  # what marginal-cost prices
    assert fleet.load(0, daemon.now) == before.load[0]
    assert [daemon.route(f"r{i}").worker_id for i in range(7)] == ["w1"] * 7
    daemon.router.release(MODEL, "r", 0, daemon.now)
    placed = [daemon.route(f"s{i}").worker_id for i in range(13)]
    assert placed.count("w0") == 4  # 4 of 20 in all, a quarter of what the other has


def test_nothing_is_kept_of_kinds_that_are_gone():
    pace = Pace(4.0)
    for number in range(200):
        spec = WorkerSpec("w0", labels={"hardware": str(number)})
        said = LoadReport(1, number, batch_size=16.0, step_seconds=1.0)
        pace.reported(0, spec, said, float(number))
    assert len(pace._costs) == len(pace._medians) == 1
    pace.forget(0)
    assert not pace._costs
