"""Whether decode steps got worse, at like batch sizes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.worker import StepReport

# Worse by so much, as the least that the evidence allows.
TOLERANCE = 0.02
_ERRORS = 3.0  # standard errors
_BLOCKS = 8
LEAST = 64
"""Reports before and after, of which some before are at the batch size of each."""


def worse(before: Sequence[StepReport], after: Sequence[StepReport]) -> str:
    """Say what got worse beyond doubt: "active experts", "step time", or nothing ("").

    Both grow with the batch, so each report after is compared with the mean of those before at its
    batch size, within a quarter of an octave (19%); where there are none, it does not count. What
    is compared is the logarithm of the ratio. Reports that follow each other are alike, so its
    standard error is that of the means of eight blocks of reports in a row, before and after.
    """
    if min(len(before), len(after)) < LEAST:
        return ""
    old, new = np.array(before, dtype=np.float64), np.array(after, dtype=np.float64)
    for what, column in (("active experts", 1), ("step time", 2)):
        if _least_change(old, new, column) > np.log1p(TOLERANCE):
            return what
    return ""


def _least_change(old: NDArray[np.float64], new: NDArray[np.float64], column: int) -> float:
    """The lower bound of the mean log ratio; minus infinity where there is too little to say."""
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
