"""Balanced assignment: who goes where at the least total cost, when places are limited."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment


def balanced_assignment(cost: ArrayLike, capacity: ArrayLike) -> NDArray[np.int32]:
    """Assign each of n items to one of K groups, no group above its capacity.

    The least total cost among all assignments that respect the capacities, exactly: each group
    becomes as many columns as it has places, and SciPy solves the rectangular assignment problem
    (`scipy.optimize.linear_sum_assignment`).

    Parameters
    ----------
    cost : array_like of float, shape [n, K]
        Finite; negative costs are fine.
    capacity : int or array_like of int, shape [K]
        Places of every group, or of each.

    Returns
    -------
    ndarray of int32, shape [n]
        The group of each item; groups may stay below capacity.

    Raises
    ------
    ValueError
        When the capacities cannot hold n items, or an argument is malformed.
    """
    costs = np.asarray(cost, dtype=np.float64)
    if costs.ndim != 2:
        raise ValueError(f"cost must have shape [n, K], got {list(costs.shape)}")
    n, groups = costs.shape
    if not np.isfinite(costs).all():
        raise ValueError("cost must be finite: it has NaN or infinite entries")
    places = np.asarray(capacity)
    if not np.issubdtype(places.dtype, np.integer):
        raise ValueError(f"capacity must be integers, got {places.dtype}")
    if places.shape not in ((), (groups,)):
        raise ValueError(f"capacity must be one integer or {groups}, got {list(places.shape)}")
    if (places < 0).any():
        raise ValueError(f"capacity must not be negative, got {int(places.min())}")
    # No group can take more than n; a capacity far above that must not cost memory.
    places = np.minimum(np.broadcast_to(places, groups), n).astype(np.int64)
    if places.sum() < n:
        raise ValueError(f"capacities hold {places.sum()} items, there are {n}")
    columns = np.repeat(np.arange(groups, dtype=np.int32), places)
    _, chosen = linear_sum_assignment(costs[:, columns])
    labels: NDArray[np.int32] = columns[chosen]
    return labels
