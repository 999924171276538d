"""Balanced assignment: items to groups with limited places, at the least total cost.

A transportation problem with few groups and many items, solved by successive shortest paths (Ahuja,
Magnanti and Orlin, *Network Flows*, 1993, ch. 9) on a graph of only the groups. At given prices of
the groups, every item first goes where it is cheapest; then each excess item moves, through other
groups if that costs less, to one with room. Prices come from the same problem on a sample of the
items, itself solved from a smaller sample. The fewer items are misplaced at first, the fewer paths
are needed: about sqrt(n K), as the sample's prices have a sampling error.

The result does not depend on the initial prices. The final prices (`assignment_with_prices`) are
its certificate: every item is in a group that is cheapest for it, price included, and only full
groups have a price, so no other assignment within the capacities costs less.

Time O(n K) to place the items, and at most O(K^2) per path; memory O(n + K^2) besides the costs.
One thread, without the GIL.
"""

from math import isqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eldr_service.kernels.fitting.assignment_paths import Costs, assign_cheapest, balance

# These affect only speed.
_SAMPLED = 8  # one item in this many
_LEAST_SAMPLE = 16  # items per group
_LEAST_MOVES = 16  # kept per pair of groups

_HUGE = 2.0**900  # from here on, sums of costs could overflow


def balanced_assignment(
    cost: ArrayLike, capacity: ArrayLike, *, start: ArrayLike | None = None
) -> NDArray[np.int32]:
    """Assign each of n items to one of K groups, no group above its capacity.

    The total cost is the least among all assignments that respect the capacities, up to the
    rounding of float64. Equal input gives equal labels.

    Parameters
    ----------
    cost : array_like of float, shape [n, K]
        Finite; negative costs are allowed. float32 is used as is, other types become float64.
    capacity : int or array_like of int, shape [K]
        Places of every group, or of each.
    start : array_like of float, shape [K], optional
        Prices of a similar problem (`assignment_with_prices`), which save time and only affect the
        choice among equally good assignments.

    Returns
    -------
    ndarray of int32, shape [n]
        The group of each item; groups may be below capacity.

    Raises
    ------
    ValueError
        The capacities cannot hold n items, or an argument is malformed.
    """
    return assignment_with_prices(cost, capacity, start=start)[0]


def assignment_with_prices(
    cost: ArrayLike, capacity: ArrayLike, *, start: ArrayLike | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Like `balanced_assignment`, and what one more place in each group would save.

    Returns
    -------
    labels : ndarray of int32, shape [n]
    prices : ndarray of float64, shape [K]
        At least 0, and 0 for groups with room, up to rounding: the dual solution.
    """
    costs = _checked_cost(cost)
    n, groups = costs.shape
    places = _checked_places(capacity, n, groups)
    prices = np.zeros(groups) if start is None else _checked_start(start, groups)
    if n == 0:
        return np.empty(0, np.int32), np.zeros(groups)
    largest = max(float(costs.max()), -float(costs.min()))
    if not np.isfinite(largest):
        raise ValueError("cost must be finite: it has NaN or infinite entries")
    scale = 2.0**-100 if largest > _HUGE else 1.0
    if scale < 1.0:
        costs = costs * scale
    # Prices that matter differ by no more than the length of a path.
    prices = np.clip((prices - prices.min()) * scale, 0.0, 2.0 * groups * (largest * scale))
    labels = _solve(costs, places, prices)
    with np.errstate(over="ignore"):  # a price beyond float64 is infinite
        return labels, (prices - prices.min()) / scale


def _solve(
    costs: Costs, places: NDArray[np.int64], prices: NDArray[np.float64]
) -> NDArray[np.int32]:
    """Least-cost labels, starting from `prices`, which are updated."""
    n, groups = costs.shape
    labels, spare, excess = assign_cheapest(costs, places, prices)
    misplaced = int(np.maximum(excess, 0).sum())
    size = n // _SAMPLED
    if misplaced > 2 * isqrt(n * groups) and size >= _LEAST_SAMPLE * groups:
        edges = np.concatenate([[0], places.cumsum()]) * size // n
        _solve(_sample(costs, size), np.diff(edges), prices)
        labels, spare, excess = assign_cheapest(costs, places, prices)
    if excess.any():
        balance(costs, labels, spare, excess, prices, max(_LEAST_MOVES, isqrt(n // groups) // 2))
    return labels


def _sample(costs: Costs, size: int) -> Costs:
    """Draw one row from each of `size` runs of rows, so that no order of the items can bias it."""
    edges = np.arange(size + 1) * len(costs) // size
    return costs[np.random.default_rng(0).integers(edges[:-1], edges[1:])]


def _checked_cost(cost: ArrayLike) -> Costs:
    costs = np.asarray(cost)
    if costs.dtype != np.float32:
        costs = costs.astype(np.float64, copy=False)
    if costs.ndim != 2:
        raise ValueError(f"cost must have shape [n, K], got {list(costs.shape)}")
    return np.ascontiguousarray(costs)


def _checked_places(capacity: ArrayLike, n: int, groups: int) -> NDArray[np.int64]:
    places = np.asarray(capacity)
    if not np.issubdtype(places.dtype, np.integer):
        raise ValueError(f"capacity must be integers, got {places.dtype}")
    if places.shape not in ((), (groups,)):
        raise ValueError(f"capacity must be one integer or {groups}, got {list(places.shape)}")
    if (places < 0).any():
        raise ValueError(f"capacity must not be negative, got {int(places.min())}")
    useful: NDArray[np.int64] = np.full(groups, np.minimum(places, n), np.int64)
    if useful.sum() < n:
        raise ValueError(f"capacities hold {useful.sum()} items, there are {n}")
    return useful


def _checked_start(start: ArrayLike, groups: int) -> NDArray[np.float64]:
    prices = np.asarray(start, dtype=np.float64)
    if prices.shape != (groups,) or not np.isfinite(prices).all():
        raise ValueError(f"start must be {groups} finite prices, got {start!r}")
    return prices
