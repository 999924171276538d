"""How many experts requests would touch in a decode batch with others of their cluster."""

import numpy as np
from numpy.typing import NDArray


def shares(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """The share of a layer's picks that went to each expert, of counts [n, L, E]."""
    picks = counts.sum(axis=2, keepdims=True, dtype=np.float64)
    share: NDArray[np.float64] = np.divide(
        counts, picks, out=np.zeros(counts.shape), where=picks > 0
    )
    return share


def predicted(
    share: NDArray[np.float64],
    fitted: NDArray[np.int64],
    fitted_labels: NDArray[np.int32],
    held_out: NDArray[np.int64],
    held_out_labels: NDArray[np.int32],
) -> NDArray[np.float64]:
    """Predict the distinct experts per layer of held-out requests, each within its cluster.

    With ``s[r, l, e]`` the share of request r's picks in layer l that went to expert e, ``q`` the
    mean of ``s`` over the fitted members of r's cluster and E experts a layer, it is the expected
    number of distinct experts touched by E / 2 picks of its own and E / 2 picks of its cluster::

        sum over e of 1 - ((1 - s[r, l, e]) * (1 - q[l, e])) ** (E / 2)

    averaged over all layers of the model, kept by a mask or not. E picks are 8 to 16 tokens of the
    usual models (E = 128, top-8: 16), where a step touches some of the experts and not all. Picks
    are taken as independent, which understates all alike.

    Parameters
    ----------
    share : ndarray of float64, shape [n, L, E]
        From `shares`.
    fitted, held_out : ndarray of int64
        Which of the n requests.
    fitted_labels, held_out_labels : ndarray of int32
        Their clusters.

    Returns
    -------
    ndarray of float64, shape [len(held_out)]
    """
    draws = share.shape[2] / 2
    experts = np.empty(len(held_out))
    for label in np.unique(held_out_labels):
        chosen = held_out_labels == label
        # An empty cluster touches nothing of its own: as if the request were alone in its batch.
        members = fitted[fitted_labels == label]
        own = share[held_out[chosen]]
        mean = share[members].mean(axis=0) if len(members) else own
        missed = ((1.0 - own) * (1.0 - mean)) ** draws
        experts[chosen] = (1.0 - missed).sum(axis=2).mean(axis=1)
    return experts
