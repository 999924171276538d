import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from eldr_service.kernels import balanced_assignment
from eldr_service.kernels.fitting.assignment import assignment_with_prices


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


def optimum(cost, capacity):
    """SciPy's least total, with a column for each place."""
    columns = np.repeat(np.arange(cost.shape[1]), np.minimum(capacity, len(cost)))
    wide = cost[:, columns].astype(np.float64)
    return wide[linear_sum_assignment(wide)].sum()


def total(cost, labels):
    return cost[np.arange(len(labels)), labels].sum(dtype=np.float64)


def assert_optimal(cost, capacity, labels, prices, tolerance):
    """Complementary slackness: everyone where it is cheapest, a price only where all is full."""
    counts = np.bincount(labels, minlength=cost.shape[1])
    assert (counts <= capacity).all()
    priced = cost + prices
    assert (priced[np.arange(len(labels)), labels] - priced.min(axis=1)).max() <= tolerance
    assert prices.min() == 0
    assert prices[counts < capacity].max(initial=0) <= tolerance


KINDS_OF_COST = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "float32": lambda rng, shape: rng.random(shape, dtype=np.float32),
    "few integers": lambda rng, shape: rng.integers(-2, 3, shape),
    "many integers": lambda rng, shape: rng.integers(0, 10**6, shape),
    "all equal": lambda rng, shape: np.full(shape, rng.normal()),
    "equal items": lambda rng, shape: rng.random((3, shape[1]))[rng.integers(0, 3, shape[0])],
    "equal groups": lambda rng, shape: np.repeat(rng.random((shape[0], 1)), shape[1], axis=1),
    "products": lambda rng, shape: np.outer(np.arange(shape[0]), np.arange(shape[1])) / 7,
    "all magnitudes": lambda rng, shape: np.exp(rng.normal(0, 30, shape)),
    "huge": lambda rng, shape: rng.uniform(-1, 1, shape) * 1e306,
    "tiny": lambda rng, shape: rng.random(shape) * 1e-306,
    "forbidden": lambda rng, shape: np.where(rng.random(shape) < 0.3, 1e9, rng.random(shape)),
    "far from zero": lambda rng, shape: 1e6 + rng.random(shape),
}


@pytest.mark.parametrize("kind", KINDS_OF_COST)
def test_as_cheap_as_scipy(kind):
    for seed in range(80):
        rng = np.random.default_rng(seed)
        n, groups = int(rng.integers(1, 50)), int(rng.integers(1, 9))
        cost = KINDS_OF_COST[kind](rng, (n, groups))
        capacity = [
            np.full(groups, -(-n // groups)),
            rng.multinomial(n, np.full(groups, 1 / groups)),
            rng.multinomial(n, rng.dirichlet(np.full(groups, 0.3))) + rng.integers(0, 3, groups),
            np.full(groups, 10**12),
        ][seed % 4]
        labels = balanced_assignment(cost, capacity)
        assert (np.bincount(labels, minlength=groups) <= capacity).all()
        least = optimum(cost, capacity)
        assert total(cost, labels) == pytest.approx(least, rel=1e-9), seed


@pytest.mark.parametrize("room", [1, 1.3, 3])
@pytest.mark.parametrize("values", [2, 50, 10**6])
def test_integers_are_solved_without_any_error(values, room):
    n, groups = 20_000, 12
    cost = np.random.default_rng(0).integers(-values, values, (n, groups))
    cost[:, 0] //= 2
    capacity = np.full(groups, int(room * n / groups) + 1)
    capacity[1] = 0
    capacity[2] *= 2
    labels, prices = assignment_with_prices(cost, capacity)
    assert_optimal(cost, capacity, labels, prices, 0)


@pytest.mark.parametrize("order", ["random", "sorted", "periodic"])
@pytest.mark.parametrize("noise", [0, 1e-3, 0.5])
def test_optimal_by_its_prices_at_size(noise, order):
    n, groups, kinds = 30_000, 10, 5
    rng = np.random.default_rng(0)
    kind = rng.integers(0, kinds, n)
    if order == "sorted":
        kind.sort()
    if order == "periodic":
        kind = np.arange(n) % kinds
    cost = (rng.random((kinds, groups))[kind] + noise * rng.random((n, groups))).astype(np.float32)
    labels, prices = assignment_with_prices(cost, n // groups)
    assert_optimal(cost, n // groups, labels, prices, 1e-12)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-9, 1.0, 1e9, 1e300]))
def test_any_start_gives_the_same_total(seed, scale):
    rng = np.random.default_rng(seed)
    n, groups = 200, 5
    cost = rng.random((n, groups))
    capacity = rng.multinomial(n, np.full(groups, 0.2)) + rng.integers(0, 20, groups)
    labels = balanced_assignment(cost, capacity, start=rng.normal(size=groups) * scale)
    assert (np.bincount(labels, minlength=groups) <= capacity).all()
    assert total(cost, labels) == pytest.approx(optimum(cost, capacity), rel=1e-9)


def test_its_own_prices_are_a_start():
    cost = np.random.default_rng(0).random((5_000, 8))
    labels, prices = assignment_with_prices(cost, 625)
    again, same = assignment_with_prices(cost, 625, start=prices)
    assert_optimal(cost, 625, again, same, 1e-12)
    np.testing.assert_array_equal(again, labels)


def test_the_same_labels_from_any_thread_and_memory_layout():
    cost = np.random.default_rng(0).integers(0, 9, (5_000, 8)).astype(np.float32)
    labels = balanced_assignment(cost, 625)
    frozen = cost.copy()
    frozen.flags.writeable = False
    ways = [cost, np.asfortranarray(cost), frozen, cost.astype(np.int8), cost.tolist()]
    with ThreadPoolExecutor() as pool:
        for found in pool.map(lambda way: balanced_assignment(way, 625), ways):
            np.testing.assert_array_equal(found, labels)


def test_float32_costs_are_not_copied():
    cost = np.random.default_rng(0).random((50_000, 32), dtype=np.float32)
    tracemalloc.start()
    balanced_assignment(cost, 1_563)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < cost.nbytes / 2


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


@pytest.mark.parametrize("start", [[0.0], [0.0, np.nan], [[0.0, 0.0]]])
def test_malformed_start(start):
    with pytest.raises(ValueError, match="start must be 2 finite prices"):
        balanced_assignment(np.zeros((1, 2)), 1, start=start)
