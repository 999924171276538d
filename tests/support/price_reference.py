"""The rule of `marginal-cost` in plain NumPy, request by request."""

import numpy as np


def prices(fleet, held, probabilities, at_mean, weights, cost, speed, tail, saved=0.0):
    """The request's cost on each worker, infinity where it may not go.

    held [worker] is a list of (probabilities, sequences), at_mean [worker] the probabilities that
    its batch, if it had the mean size, leaves an expert unused; weights [worker] what held requests
    have yet to generate, in half-lives; cost (fixed, expert, sequence); saved [worker] seconds per
    generated token.
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
        later = (at_mean[w] * probabilities).sum() / layers
        mean = fleet.sequences[fleet.eligible].mean()
        total[w] = step[w] + speed[w] * expert * (grown * weights[w] / 2 + later * mean)
    allowed = fleet.eligible & (step <= (1 + tail) * step[fleet.eligible].mean() * (1 + 1e-9))
    return np.where(allowed, total - saved, np.inf)
