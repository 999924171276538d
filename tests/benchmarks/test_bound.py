"""The local search behind the bound, against every assignment there is."""

from itertools import combinations, product

import numpy as np
import pytest

from benchmarks.policies.bound import improve

WHOLE, EXPERT, SEQUENCE = 40.0, 2.0, 0.5


def cost(at, spared, workers):
    total = 0.0
    for w in range(workers):
        held = spared[at == w]
        step = WHOLE - EXPERT * held.prod(axis=0).sum() + SEQUENCE * len(held)
        total += len(held) * step
    return total


def searched(at, spared, workers):
    at = at.copy()
    unused = np.stack([spared[at == w].prod(axis=0) for w in range(workers)])
    improve(at, spared, unused, WHOLE, EXPERT, SEQUENCE)
    np.testing.assert_allclose(unused, [spared[at == w].prod(axis=0) for w in range(workers)])
    return at


def test_kinds_end_up_each_on_a_worker():
    spared = np.repeat([[0.1] * 6 + [1.0] * 6, [1.0] * 6 + [0.1] * 6], 3, axis=0)
    at = searched(np.array([0, 1, 0, 1, 0, 1]), spared, 2)
    assert len(set(at[:3])) == len(set(at[3:])) == 1
    assert at[0] != at[3]


@pytest.mark.parametrize("seed", range(20))
def test_no_move_and_no_swap_of_misfits_lowers_what_it_leaves(seed):
    rng = np.random.default_rng(seed)
    n, workers = 6, 3
    spared = 1 - rng.random((n, 10)) ** 3 * (1 - 1e-6)
    begin = rng.integers(0, workers, n)
    at = searched(begin, spared, workers)
    found = cost(at, spared, workers)
    every = [cost(np.array(each), spared, workers) for each in product(range(workers), repeat=n)]
    assert min(every) - 1e-9 <= found <= cost(begin, spared, workers) + 1e-9
    for i, w in product(range(n), range(workers)):
        moved = at.copy()
        moved[i] = w
        assert cost(moved, spared, workers) >= found - 1e-6
    added = [cost(at, spared, workers) for _ in range(n)]
    for i in range(n):
        rest = np.delete(np.arange(n), i)
        on = spared[rest][at[rest] == at[i]].prod(axis=0)
        added[i] = (on * (1 - spared[i])).sum()
    misfits = np.argsort(added)[::-1][:2]
    for i, j in combinations(misfits, 2):
        swapped = at.copy()
        swapped[i], swapped[j] = at[j], at[i]
        assert cost(swapped, spared, workers) >= found - 1e-6
