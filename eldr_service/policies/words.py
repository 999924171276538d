"""Words for workers and loads in what `Policy.explain` returns."""

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.decision import FleetSnapshot

MOST_NAMED = 8


def names(fleet: FleetSnapshot, among: NDArray[np.bool_]) -> str:
    """The workers of a mask, in order of registration; only the first of many."""
    found = np.flatnonzero(among)
    named = ", ".join(fleet.worker_ids[i] for i in found[:MOST_NAMED])
    more = found.size - MOST_NAMED
    return f"{named} and {more} more" if more > 0 else named


def at_load(fleet: FleetSnapshot, worker: int) -> str:
    """A worker and its load."""
    return f"{fleet.worker_ids[worker]} at {fleet.load[worker]:.2f}"


def least_loaded_of(fleet: FleetSnapshot, among: NDArray[np.bool_], worker: int) -> str:
    """The workers of a mask, and the least loaded one, which was taken."""
    if np.count_nonzero(among) == 1:
        return f"{fleet.worker_ids[worker]} alone, at load {fleet.load[worker]:.2f}"
    return f"{names(fleet, among)}; least loaded of them: {at_load(fleet, worker)}"
