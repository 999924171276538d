"""Determines which returned layers are MoE: engines return dense ones as 0."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Experts = NDArray[np.integer]
"""One answer's, shape [tokens, hidden layers, top_k]."""


def moe_layers(answers: list[Experts], chosen: Sequence[int] | None) -> list[int]:
    """The chosen layers, or by default those in which any pick of any answer is not 0.

    Raises
    ------
    ValueError
        At top-1 a layer is all 0: the one expert may be expert 0.
    """
    if chosen is not None:
        return list(chosen)
    _, hidden, top_k = answers[0].shape
    picked = sorted(set().union(*map(_picked, answers)))
    if top_k == 1 and len(picked) < hidden:
        raise ValueError(
            f"picks of layers {sorted(set(range(hidden)) - set(picked))} are all 0, and at top-1 a"
            " dense layer looks like one whose tokens all pick expert 0: the MoE layers must be"
            " given"
        )
    return picked


def repeated(experts: Experts, chosen: Sequence[int] | None) -> str:
    """The error if a token picks an expert twice in a MoE layer; empty if none does.

    ValueError if a chosen layer does not exist.
    """
    hidden = experts.shape[1]
    layers = _picked(experts) if chosen is None else list(chosen)
    if not layers:
        return "routed_experts is 0 throughout: the engine captured nothing"
    if min(layers) < 0 or max(layers) >= hidden:
        raise ValueError(f"layers must be from 0 to {hidden - 1}, found {layers}")
    ordered = np.sort(experts[:, layers], axis=2)
    twice = (ordered[:, :, 1:] == ordered[:, :, :-1]).any(axis=2)
    if not twice.any():
        return ""
    token, layer = np.argwhere(twice)[0].tolist()
    return (
        f"token {token} picks an expert twice in hidden layer {layers[layer]}, expected"
        f" {ordered.shape[2]} distinct ones; are layers and top_k those of the model?"
    )


def lacking(experts: Experts, layers: list[int]) -> str:
    """The error if layers are dense here and not in other answers; empty otherwise.

    At top-1 a short answer may pick only expert 0.
    """
    dense = sorted(set(layers) - set(_picked(experts)))
    if not dense or experts.shape[2] == 1:
        return ""
    return f"picks of hidden layers {dense} are all 0, but not in other answers"


def _picked(experts: Experts) -> list[int]:
    """The hidden layers in which any pick is not 0."""
    return np.flatnonzero((experts != 0).any(axis=(0, 2))).tolist()
