"""Proposals of moves: which requests, how often, and where to."""

import pytest
from small_daemon import SmallDaemon

from eldr_service.policies import Policy
from eldr_service.policies.policy import Move

MODEL = "model"


class Eager(Policy):
    """Moves the first of its candidates to the last eligible worker."""

    name = "eager"
    description = "for tests"

    def pick(self, request, fleet):
        raise NotImplementedError

    def move(self, candidates, fleet):
        self.asked = [booking.request_id for booking in candidates]
        return Move(candidates[0], int(fleet.eligible.nonzero()[0][-1]), 1.5)


@pytest.fixture
def daemon():
    made = SmallDaemon()
    made.join("a", "b", capacity_sequences=50)
    made.model.set_policy(Eager())
    return made


def proposed(daemon):
    return daemon.router.propose_move(MODEL, daemon.now)


def test_only_movable_requests_that_have_rested_are_proposed_and_each_once(daemon):
    daemon.route("stays", pinned_worker="a")
    daemon.route("moves", pinned_worker="a", movable=True)
    assert proposed(daemon) is None
    daemon.now += 0.25
    found = proposed(daemon)
    assert (found.booking.request_id, found.target.worker_id) == ("moves", "b")
    assert found.gain_seconds == 1.5
    assert daemon.model.bookings.live("moves").worker_id == "a"  # nothing has changed
    assert proposed(daemon) is None
    daemon.now += 0.25
    assert proposed(daemon).booking is found.booking


def test_what_has_ended_is_not_proposed_and_what_has_moved_rests(daemon):
    daemon.route("ends", pinned_worker="a", movable=True)
    daemon.route("moves", pinned_worker="a", movable=True)
    daemon.now += 0.25
    daemon.router.release(MODEL, "ends", 0, daemon.now)
    daemon.route("moves", attempt=1, pinned_worker="b", movable=True)
    assert proposed(daemon) is None
    assert len(daemon.model.movable) == 1
    daemon.now += 0.25
    assert proposed(daemon).booking.key == ("moves", 1)


def test_a_request_goes_only_where_its_call_allowed_it(daemon):
    daemon.route("moves", pinned_worker="a", candidate_workers=("a",), movable=True)
    daemon.now += 0.25
    assert proposed(daemon) is None
    assert daemon.model.policy.asked == ["moves"]


def test_a_policy_sees_a_few_at_a_time_and_all_by_turns(daemon):
    names = [f"r{i}" for i in range(40)]
    for name in names:
        daemon.route(name, pinned_worker="a", movable=True)
    daemon.now += 0.25
    seen = []
    for _ in range(3):
        proposed(daemon)
        seen += daemon.model.policy.asked
        assert len(daemon.model.policy.asked) == 16
    assert set(seen) == set(names)


def test_a_policy_that_raises_or_answers_with_nonsense_moves_nothing(daemon):
    moves = daemon.route("moves", pinned_worker="a", movable=True)
    stays = daemon.route("stays", pinned_worker="a")
    daemon.now += 0.25
    policy = daemon.model.policy
    policy.move = None  # not to be called
    assert proposed(daemon) is None
    for nonsense in (Move(stays, 1, 1.0), Move(moves, 7, 1.0)):
        policy.move = lambda candidates, fleet, nonsense=nonsense: nonsense
        assert proposed(daemon) is None
    policy.move = lambda candidates, fleet: Move(candidates[0], 1, 1.0)
    assert proposed(daemon).booking is moves


def test_a_full_worker_takes_none(daemon):
    daemon.join("c", capacity_sequences=1)
    daemon.route("fills", pinned_worker="c")
    daemon.route("moves", pinned_worker="a", movable=True)
    daemon.now += 0.25
    assert proposed(daemon).target.worker_id == "b"


def test_requests_that_end_are_forgotten_where_no_proposal_is_asked_for(daemon):
    for number in range(50):
        daemon.route(f"r{number}", pinned_worker="a", movable=True)
        daemon.router.release(MODEL, f"r{number}", 0, daemon.now)
    assert len(daemon.model.movable) == 0
    assert len(daemon.model.movable._resting) <= 1


def test_a_model_that_is_unknown_has_no_moves(daemon):
    assert daemon.router.propose_move("other", daemon.now) is None
