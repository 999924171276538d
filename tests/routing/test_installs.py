"""Versions that refits put in force: kept, bound, forgotten, taken back."""

from dataclasses import replace
from itertools import count

import pytest
from small_daemon import MODEL, SmallDaemon, partition

from eldr_service.core.errors import NotFoundError
from eldr_service.refits.upkeep import Due, RefitMode, RefitSettings, Upkeep
from eldr_service.routing.partitions import MAX_AUTOMATIC


@pytest.fixture
def daemon():
    daemon = SmallDaemon()
    daemon.join("a", "b", "c", "d")
    return daemon


def versions(daemon):
    return [kept.version for kept in daemon.partitions.all(MODEL)]


def test_the_oldest_of_those_that_nobody_chose_are_forgotten(daemon):
    mine = daemon.activate()
    chosen = daemon.partitions.install(partition(), {}).version
    daemon.partitions.activate(MODEL, chosen)  # somebody's choice from now on
    assert not daemon.partitions.is_automatic(daemon.model)
    installed = [
        daemon.partitions.install(partition(), {}).version for _ in range(MAX_AUTOMATIC + 3)
    ]
    assert daemon.partitions.is_automatic(daemon.model)
    assert versions(daemon) == [mine.version, chosen, *installed[3:]]
    with pytest.raises(NotFoundError):
        daemon.partitions.activate(MODEL, installed[0])
    back = [daemon.partitions.rollback(MODEL).version for _ in range(MAX_AUTOMATIC + 1)]
    assert back == [*installed[-2:2:-1], chosen, mine.version]  # past those forgotten


def test_workers_are_bound_as_wished_and_go_back_to_where_they_were(daemon):
    daemon.activate()
    before = daemon.slots()
    turned = {worker: (slot + 1) % 4 for worker, slot in before.items()}
    installed = daemon.partitions.install(partition(), turned)
    assert daemon.slots() == installed.bindings == turned
    daemon.partitions.rollback(MODEL, before)
    assert daemon.slots() == before


def test_what_was_automatic_is_remembered_over_a_restart(daemon):
    daemon.partitions.install(partition(), {})
    daemon.chosen.set_refit_mode(daemon.model, "OFF")
    again = SmallDaemon(store=daemon.store)
    again.chosen.restore(again.now)
    assert again.partitions.is_automatic(again.model)
    assert again.chosen.refit_mode(again.model) == "OFF"


def test_after_each_taking_back_refits_wait_twice_as_long(daemon):
    model = daemon.model
    model.declare_geometry(partition().geometry, "test")
    upkeep = Upkeep(model, RefitSettings(interval=100.0, signatures=1), RefitMode.AUTO)
    daemon.partitions.install(partition(), {})
    upkeep.follow(True, daemon.now)
    numbers = count(1)

    def steps(experts):
        said = {"batch_size": 8.0, "active_experts": experts, "step_seconds": 0.01}
        daemon.report("a", next(numbers), **said)

    now, counts = daemon.now, partition().centroids[:2, :4].reshape(2, 4).astype("uint32")
    for wait in (100.0, 200.0, 400.0):
        for _ in range(8):
            model.recent.add(counts, now)
        assert upkeep.due(now) is Due.TRAFFIC
        upkeep.begin(Due.TRAFFIC, now)
        upkeep.running = False
        for _ in range(8):
            model.recent.add(counts, now)
        assert upkeep.due(now + wait - 1.0) is None
        for batch in range(80):
            steps(6.0 + batch % 3)
        before = model.slots_by_worker()
        daemon.partitions.install(replace(partition(), metadata={"refit_distance": "0.1"}), {})
        upkeep.probation(before, 0, now)
        assert upkeep.got_worse() is None  # only now do reports count
        for batch in range(80):
            steps(9.0 + batch % 3)
        assert upkeep.got_worse() == ("active experts", before)
        daemon.partitions.rollback(MODEL, before)
        upkeep.rolled_back(now)
        upkeep.follow(False, now)
        assert upkeep.held_until < now  # that was no choice made by hand
        assert upkeep.due(now + 2 * wait - 1.0) is None
        now += 2 * wait
