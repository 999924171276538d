"""How many experts requests would touch in a decode batch with others of their cluster."""

import numpy as np
from numpy.typing import NDArray


def shares(counts: NDArray[np.integer]) -> NDArray[np.float32]:
    """The share of a layer's picks that went to each expert, of counts [n, L, E]."""
    picks = counts.sum(axis=2, keepdims=True, dtype=np.float32)
    share = np.zeros(counts.shape, np.float32)
    np.divide(counts, picks, out=share, where=picks > 0)
    return share


def predicted(
    own: NDArray[np.float32],
    own_labels: NDArray[np.int32],
    fitted: NDArray[np.float32],
    fitted_labels: NDArray[np.int32],
) -> NDArray[np.float64]:
    """Predict the distinct experts per layer of held-out requests, each within its cluster.

    With ``s[r, l, e]`` the share of request r's picks in layer l that went to expert e, ``q`` the
    mean of ``s`` over the fitted members of r's cluster and E experts per layer, it is the expected
    number of distinct experts touched by E / 2 picks of its own and E / 2 picks of its cluster::

        sum over e of 1 - ((1 - s[r, l, e]) * (1 - q[l, e])) ** (E / 2)

    averaged over all layers of the model, whether a mask keeps them or not. E picks are 8 to 16
    tokens of common models (E = 128, top-8: 16), where a step touches some of the experts but not
    all. Picks are treated as independent, which underestimates all alike.

    Parameters
    ----------
    own : ndarray of float32, shape [h, L, E]
        From `shares`, for the held-out requests.
    own_labels : ndarray of int32, shape [h]
        Their clusters.
    fitted, fitted_labels
        The same for the fitted requests.

    Returns
    -------
    ndarray of float64, shape [h]
    """
    draws = own.shape[2] / 2
    experts = np.empty(len(own))
    for label in np.unique(own_labels):
        chosen = own_labels == label
        # An empty cluster touches nothing: as if the request were alone in its batch.
        members = fitted[fitted_labels == label]
        mean = members.mean(axis=0) if len(members) else own[chosen]
        with np.errstate(divide="ignore"):  # all picks on one expert: it is never missed
            missed = np.exp(draws * (np.log1p(-own[chosen]) + np.log1p(-mean)))
        experts[chosen] = (1.0 - missed).sum(axis=2, dtype=np.float64).mean(axis=1)
    return experts
