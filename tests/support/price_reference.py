"""The rule of `marginal-cost` said plainly in NumPy, request by request."""

import numpy as np


def prices(fleet, held, probabilities, weights, cost, speed, similar, parting, tail):
    """What the request costs on each worker, infinity where it may not go.

    held [worker] is a list of (probabilities, sequences); weights [worker] what they have yet to
    generate; cost (fixed, expert, sequence); similar [worker], NaN without a slot.
    """
    fixed, expert, sequence = cost
    n = len(held)
    layers = len(probabilities)
    step, total = np.zeros(n), np.zeros(n)
    for w in range(n):
        unused = np.ones_like(probabilities)
        for uses, times in held[w]:
            unused = unused * (1 - uses) ** times
        grown = (unused * probabilities).sum() / layers
        active = (1 - unused).sum() / layers + grown
        step[w] = speed[w] * (fixed + expert * active + sequence * (fleet.sequences[w] + 1))
        total[w] = step[w] + speed[w] * (expert * grown + sequence) * weights[w]
    best = np.nanmax(np.where(fleet.eligible, similar, -np.inf), initial=-np.inf)
    lost = np.nan_to_num(np.maximum(best - similar, 0))
    total += expert * parting * fleet.sequences[fleet.eligible].mean() * lost
    allowed = fleet.eligible & (step <= (1 + tail) * step[fleet.eligible].mean() * (1 + 1e-9))
    return np.where(allowed, total, np.inf)
