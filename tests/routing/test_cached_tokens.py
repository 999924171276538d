"""What workers hold of a request's prompt: told by its caller, or believed by hashes."""

import random

import pytest
from replayed import changed, replayed
from small_daemon import MODEL, SmallDaemon, counts_on

from eldr_service.core.geometry import ModelGeometry
from eldr_service.decision_log.reader import LogReader
from eldr_service.decision_log.recorder import Recorder
from eldr_service.decision_log.writer import Writer
from eldr_service.policies.registry import create


def prompt(name, blocks):
    """Hashes of a prompt; those of the same name begin alike."""
    drawn = random.Random(name)
    return tuple(drawn.getrandbits(64) for _ in range(blocks))


def priced(journal=None):
    """Three workers whose step times are known, under marginal-cost."""
    daemon = SmallDaemon(journal=journal)
    daemon.join("a", "b", "c", geometry=ModelGeometry(2, 4, 1), capacity_sequences=100)
    daemon.model.set_policy(create("marginal-cost", {"token_transfer_us": "100"}))
    for number in range(5):
        for worker in "abc":
            steps = {"active_experts": 2.0, "batch_size": 4.0, "step_seconds": 0.01}
            daemon.report(worker, number, **steps)
    return daemon


def cached(daemon, request_id, **fields):
    scores = daemon.route(request_id, dry_run=True, explain=True, **fields).scores
    return {score.worker_id: score.cached_tokens for score in scores}


@pytest.fixture
def daemon():
    return priced()


def test_a_booked_prompt_is_held_from_then_on_and_a_dry_run_changes_nothing(daemon):
    daemon.route("r", pinned_worker="b", prefix_hashes=prompt("x", 64), dry_run=True)
    assert cached(daemon, "s", prefix_hashes=prompt("x", 80)) == {"a": 0, "b": 0, "c": 0}
    daemon.route("r", pinned_worker="b", prefix_hashes=prompt("x", 64))
    assert cached(daemon, "s", prefix_hashes=prompt("x", 80)) == {"a": 0, "b": 1_024, "c": 0}
    assert cached(daemon, "s", prefix_hashes=prompt("x", 80), prompt_tokens=1_000)["b"] == 1_000


def test_a_worker_that_leaves_or_begins_another_life_holds_nothing(daemon):
    for worker in "ab":
        request = {"pinned_worker": worker, "prefix_hashes": prompt("x", 64)}
        daemon.route(f"on {worker}", **request)
    daemon.workers.remove(MODEL, "a", 0, daemon.now)
    daemon.join("b")
    assert cached(daemon, "s", prefix_hashes=prompt("x", 64)) == {"b": 0, "c": 0}
    daemon.join("d")  # where a was
    assert cached(daemon, "s", prefix_hashes=prompt("x", 64)) == {"b": 0, "c": 0, "d": 0}


def test_what_the_caller_knows_stands_instead_of_what_is_believed(daemon):
    daemon.route("r", pinned_worker="b", prefix_hashes=prompt("x", 64))
    said = {"prefix_hashes": prompt("x", 64), "cached_tokens": {"c": 300, "stranger": 9}}
    assert cached(daemon, "s", **said) == {"a": 0, "b": 0, "c": 300}


def test_a_session_stays_with_the_worker_that_holds_it(daemon):
    def go(name, hashes, **fields):
        found = daemon.route(
            name, counts=counts_on(1), prefix_hashes=hashes, explain=True, **fields
        )
        daemon.router.release(MODEL, name, 0, daemon.now, output_tokens=50)
        return found

    for number in range(100):  # until experts and output tokens are learned
        go(f"before {number}", prompt(f"before {number}", 64))
    go("0", prompt("x", 64), pinned_worker="c")
    for turn in range(1, 6):
        found = go(f"{turn}", prompt("x", 64 + 16 * turn))
        assert found.booking.worker_id == "c"
        assert "prompt tokens it already holds" in found.rule
        assert go(f"beside {turn}", prompt(f"{turn}", 64)).booking.worker_id == "a"
    later = daemon.router.explain(MODEL, "5", None, daemon.now)
    assert (later.rule, later.scores) == (found.rule, found.scores)
    assert {score.cached_tokens for score in later.scores} == {0, 64 * 16 + 4 * 16 * 16}


def test_a_replay_decides_by_what_workers_held_then(tmp_path):
    lost = []
    recorder = Recorder(Writer(tmp_path, 10_000_000, lost.append, lambda size: None), lost.append)
    daemon = priced(journal=recorder)
    recorder.watch(daemon.router)
    recorder.tick()
    draw = random.Random(0)
    for number in range(120):
        name, blocks = draw.choice("uvwxyz"), draw.randrange(200)
        fields = {"prefix_hashes": prompt(name, blocks)}
        if number % 3 == 0:
            fields = {"cached_tokens": {draw.choice("abc"): blocks}}
        daemon.route(str(number), counts=counts_on(draw.randrange(4)), **fields)
        if number >= 20:
            daemon.router.release(MODEL, str(number - 20), 0, daemon.now, output_tokens=50)
        if number == 60:
            recorder._begin()  # as `tick` does when a file is full
    recorder.close()
    assert not lost
    assert len(LogReader(tmp_path).files) == 2
    for path in LogReader(tmp_path).files:
        by_model, _ = replayed(path)
        assert not changed(by_model[MODEL]), path
