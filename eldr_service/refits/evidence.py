"""Whether decode steps got worse, at similar batch sizes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.worker import StepReport

# Least worsening, as the lower bound of the evidence.
TOLERANCE = 0.02
_ERRORS = 3.0  # standard errors
_BLOCKS = 8
LEAST = 64
"""Fewest reports before and after; later ones need earlier ones of their batch size."""


def worse(before: Sequence[StepReport], after: Sequence[StepReport]) -> str:
    """What got significantly worse: "active experts", "step time", or nothing ("").

    Both grow with the batch, so each later report is compared with the mean of earlier ones at its
    batch size, within a quarter of an octave (19%); without any, it does not count. The comparison
    is of the logarithm of the ratio. Consecutive reports are correlated, so its standard error is
    that of the means of eight blocks of consecutive reports, before and after.
    """
    if min(len(before), len(after)) < LEAST:
        return ""
    old, new = np.array(before, dtype=np.float64), np.array(after, dtype=np.float64)
    for what, column in (("active experts", 1), ("step time", 2)):
        if _least_change(old, new, column) > np.log1p(TOLERANCE):
            return what
    return ""


def _least_change(old: NDArray[np.float64], new: NDArray[np.float64], column: int) -> float:
    """The lower bound of the mean log ratio; minus infinity if there is too little data."""
    old, new = (reports[(reports[:, [0, column]] > 0).all(axis=1)] for reports in (old, new))
    old_bin, new_bin = (np.round(4 * np.log2(reports[:, 0])) for reports in (old, new))
    expected = {size: np.log(old[old_bin == size, column]).mean() for size in np.unique(old_bin)}
    known = np.isin(new_bin, list(expected))
    if min(known.sum(), len(old)) < LEAST:
        return -np.inf
    ratios = [
        np.log(values) - np.array([expected[size] for size in bins])
        for values, bins in ((old[:, column], old_bin), (new[known, column], new_bin[known]))
    ]
    variance = sum(_variance_of_mean(each) for each in ratios)
    return float(ratios[1].mean() - _ERRORS * np.sqrt(variance))


def _variance_of_mean(values: NDArray[np.float64]) -> float:
    means = [block.mean() for block in np.array_split(values, _BLOCKS)]
    return float(np.var(means, ddof=1) / _BLOCKS)
