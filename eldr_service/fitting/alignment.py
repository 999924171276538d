"""Matches new slots with old ones, so that as few placements as possible move."""

import numpy as np
from numpy.typing import NDArray

from eldr_service.kernels import balanced_assignment


def aligned(
    new: NDArray[np.integer], old: NDArray[np.integer], num_new: int, num_old: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Match new slots with old ones, one to one, by the requests that they share.

    Parameters
    ----------
    new, old : ndarray of int, shape [n]
        The slot of each of n requests before and after.
    num_new, num_old : int

    Returns
    -------
    order : ndarray of int64, shape [num_new]
        The new slots in the order in which they should be numbered: the successor of old slot i is
        at place i, if there is such a place; the others take the remaining places.
    carried : ndarray of int64, shape [num_old]
        The place of each old slot's successor; -1 for none.
    """
    shared = np.zeros((num_new, max(num_new, num_old)))
    np.add.at(shared, (new, old), 1.0)
    match = balanced_assignment(-shared, 1)
    order = np.full(num_new, -1)
    for slot in np.flatnonzero(match < num_new):
        order[match[slot]] = slot
    order[order < 0] = np.flatnonzero(match >= num_new)
    carried = np.full(num_old, -1)
    for place, slot in enumerate(order):
        if match[slot] < num_old:
            carried[match[slot]] = place
    return order, carried
