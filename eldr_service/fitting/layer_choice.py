"""Which layers to use: those of a mask, or those that predict the decode best."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def most_telling_half(
    prefill: NDArray[np.float32], decode: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Keep the half of the layers in which a prefill best predicts its own decode.

    In each layer, shares of picks are compared by their Hellinger affinity, the sum over experts of
    ``sqrt(prefill * decode)``. A layer's score is how much the affinity of a request's prefill with
    its own decode exceeds that with any request's decode, on average: a layer in which all requests
    pick alike scores nothing, however similar a request's prefill and decode are.

    Parameters
    ----------
    prefill, decode : ndarray of float32, shape [n, L, E]
        Each expert's share of the picks in its layer; L at least 2.

    Returns
    -------
    ndarray of int64
        Half of the layers, rounded up, ascending.
    """
    p, d = np.sqrt(prefill), np.sqrt(decode)
    own = (p * d).sum(axis=2).mean(axis=0)
    anyone = (p.mean(axis=0) * d.mean(axis=0)).sum(axis=1)
    keep = -(-p.shape[1] // 2)
    return np.sort(np.argsort(anyone - own, kind="stable")[:keep])


def kept_layers(layer_mask: ArrayLike, num_layers: int) -> NDArray[np.int64]:
    """Layer numbers of a mask of booleans [L] or of ascending numbers; ValueError for others."""
    mask = np.asarray(layer_mask)
    if mask.dtype == np.bool_ and mask.shape == (num_layers,) and mask.any():
        return np.flatnonzero(mask)
    if (
        np.issubdtype(mask.dtype, np.integer)
        and mask.ndim == 1
        and mask.size
        and (np.diff(mask) > 0).all()
        and mask[0] >= 0
        and mask[-1] < num_layers
    ):
        return mask.astype(np.int64)
    raise ValueError(
        f"layer_mask must be {num_layers} booleans, not all False, or ascending layer numbers"
        f" below {num_layers}, got {layer_mask!r}"
    )
