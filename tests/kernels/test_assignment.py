from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eldr_service.kernels import balanced_assignment


def least_cost(cost, capacity):
    """Try every assignment."""
    n, groups = cost.shape
    return min(
        sum(cost[item, group] for item, group in enumerate(labels))
        for labels in product(range(groups), repeat=n)
        if (np.bincount(labels, minlength=groups) <= capacity).all()
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 3), st.booleans())
def test_least_cost_within_capacity(seed, n, groups, coarse):
    rng = np.random.default_rng(seed)
    cost = rng.integers(-2, 3, (n, groups)) if coarse else rng.normal(size=(n, groups))
    capacity = rng.integers(0, 4, groups)
    capacity[0] += max(0, n - capacity.sum())
    labels = balanced_assignment(cost, capacity)
    assert labels.dtype == np.int32
    assert (np.bincount(labels, minlength=groups) <= capacity).all()
    assert cost[np.arange(n), labels].sum() == pytest.approx(least_cost(cost, capacity))


def test_one_capacity_for_all_groups():
    labels = balanced_assignment([[0, 1], [0, 5], [0, 1], [0, 5]], 2)
    assert labels.tolist() == [1, 0, 1, 0]


def test_room_to_spare_gives_everyone_their_cheapest():
    cost = np.random.default_rng(0).random((50, 7))
    np.testing.assert_array_equal(balanced_assignment(cost, 10**12), cost.argmin(axis=1))


@pytest.mark.parametrize("groups", [0, 3])
def test_nothing_to_assign(groups):
    labels = balanced_assignment(np.empty((0, groups)), 1)
    assert labels.shape == (0,)
    assert labels.dtype == np.int32


@pytest.mark.parametrize(
    ("cost", "capacity", "message"),
    [
        (np.zeros((3, 2)), 1, "hold 2 items, there are 3"),
        (np.zeros((1, 0)), 1, "hold 0 items, there are 1"),
        ([[0.0, np.nan]], 1, "finite"),
        ([[0.0, np.inf]], 1, "finite"),
        (np.zeros((1, 2)), [2, -1], "negative"),
        (np.zeros((1, 2)), [1, 1, 1], "one integer or 2"),
        (np.zeros((1, 2)), 1.5, "integers"),
        (np.zeros(3), 1, "shape"),
    ],
)
def test_malformed(cost, capacity, message):
    with pytest.raises(ValueError, match=message):
        balanced_assignment(cost, capacity)
