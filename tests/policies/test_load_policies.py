"""The policies that look at nothing or at load alone, but for round robin."""

import numpy as np
import pytest
from fleet_snapshot import evenness, picks, request, snapshot

from eldr_service.core.decision import Reason
from eldr_service.policies.join_shortest_queue import JoinShortestQueue
from eldr_service.policies.policy import SeededParameters
from eldr_service.policies.power_of_two_choices import PowerOfTwoChoices
from eldr_service.policies.random import Random

ALL = [Random, JoinShortestQueue, PowerOfTwoChoices]


@pytest.mark.parametrize("policy", ALL)
def test_same_number_same_pick_other_seed_other_picks(policy):
    fleet = snapshot([2] * 8)
    first, again, other = (
        [
            policy(SeededParameters(seed=seed)).pick(request(number), fleet).worker
            for number in range(100)
        ]
        for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("policy", ALL)
def test_pick_changes_nothing(policy):
    policy, fleet = policy(), snapshot([1, 1, 2, 1])
    state = dict(vars(policy))
    decisions = [policy.pick(request(5), fleet) for _ in range(3)]
    assert len({decision.worker for decision in decisions}) == 1
    assert all(decision.reason is Reason.POLICY for decision in decisions)
    assert vars(policy) == state


@pytest.mark.parametrize("policy", ALL)
def test_only_eligible_workers(policy):
    fleet = snapshot([0, 5, 0, 5, 0], eligible=[0, 1, 0, 1, 0])
    counts = picks(policy(), fleet, 2000)
    assert counts[[0, 2, 4]].sum() == 0
    assert evenness(counts[[1, 3]]) < 4
    assert picks(policy(), snapshot([0, 9], eligible=[0, 1]), 20).tolist() == [0, 20]


def test_random_is_uniform_and_blind_to_load():
    assert evenness(picks(Random(), snapshot([0, 7, 3, 1, 9]), 10_000)) < 2.5


def test_shortest_queue_counts_relative_to_capacity():
    fleet = snapshot([3, 6, 5], capacity=[8, 32, 16])
    assert picks(JoinShortestQueue(), fleet, 50).tolist() == [0, 50, 0]


def test_shortest_queue_breaks_ties_evenly_also_of_unequal_capacities():
    fleet = snapshot([1, 3, 1, 2, 6], capacity=[7, 21, 5, 14, 42])  # all but w2 at 1/7
    counts = picks(JoinShortestQueue(), fleet, 8000)
    assert counts[2] == 0
    assert evenness(counts[[0, 1, 3, 4]]) < 3


def test_two_choices_takes_the_less_loaded_of_every_pair():
    """Ranked by load, worker r of n wins the pairs with the n - 1 - r above it."""
    fleet = snapshot([0, 1, 2, 3, 4])
    counts = picks(PowerOfTwoChoices(), fleet, 20_000)
    expected = 20_000 * np.array([4, 3, 2, 1, 0]) / 10
    assert counts[4] == 0
    assert np.abs(counts - expected).max() < 200
    relative = picks(PowerOfTwoChoices(), snapshot([2, 3], capacity=[8, 64]), 50)
    assert relative.tolist() == [0, 50]


def test_two_choices_on_a_tie_takes_the_first_drawn():
    """With everything tied it picks what it drew first, which is what `random` draws."""
    fleet = snapshot([1, 1, 1, 1, 1])
    for number in range(500):
        drawn_first = Random().pick(request(number), fleet).worker
        assert PowerOfTwoChoices().pick(request(number), fleet).worker == drawn_first


def test_two_choices_draws_distinct_workers():
    """Were they ever the same, the more loaded of two would now and then be taken."""
    assert picks(PowerOfTwoChoices(), snapshot([1, 0]), 5000).tolist() == [0, 5000]
