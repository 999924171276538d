"""The search for the best placements in hindsight, against every placement there is."""

from itertools import product

import numpy as np
import pytest

from benchmarks.policies.hindsight import place_anew

WHOLE, EXPERT, SEQUENCE = 40.0, 2.0, 0.5


def cost(at, begins, ends, spared, workers):
    total = 0.0
    for moment, w in product(range(ends.max()), range(workers)):
        held = spared[(at == w) & (begins <= moment) & (moment < ends)]
        total += len(held) * (WHOLE - EXPERT * held.prod(axis=0).sum() + SEQUENCE * len(held))
    return total


def placed(at, begins, ends, spared, workers, seed=0):
    at = at.copy()
    place_anew(at, begins, ends, spared, workers, WHOLE, EXPERT, SEQUENCE, seed)
    return at


def test_what_comes_later_decides():
    """Two kinds; the first request could as well be anywhere, were it not for those to come."""
    kinds = np.array([[0.1] * 6 + [1.0] * 6, [1.0] * 6 + [0.1] * 6])
    spared = kinds[[0, 1, 0, 1]]
    begins, ends = np.array([0, 1, 2, 3]), np.array([9, 9, 9, 9])
    at = placed(np.array([0, 0, 1, 1]), begins, ends, spared, 2)
    assert at[0] == at[2] != at[1] == at[3]


@pytest.mark.parametrize("seed", range(10))
def test_it_is_near_the_best_of_all_and_no_single_change_lowers_it(seed):
    rng = np.random.default_rng(seed)
    n, workers = 6, 3
    spared = 1 - rng.random((n, 10)) ** 3 * (1 - 1e-6)
    begins = rng.integers(0, 4, n)
    ends = begins + rng.integers(1, 5, n)
    begin = rng.integers(0, workers, n)
    at = placed(begin, begins, ends, spared, workers, seed)
    found = cost(at, begins, ends, spared, workers)
    every = product(range(workers), repeat=n)
    best = min(cost(np.array(each), begins, ends, spared, workers) for each in every)
    assert best - 1e-9 <= found <= best * 1.05
    for i, w in product(range(n), range(workers)):
        changed = at.copy()
        changed[i] = w
        assert cost(changed, begins, ends, spared, workers) >= found - 1e-6
