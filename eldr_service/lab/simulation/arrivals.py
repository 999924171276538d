"""When requests arrive, and which recording each of them is."""

import numpy as np
from numpy.typing import NDArray


def poisson_arrivals(rate_per_s: float, duration_s: float, seed: int) -> NDArray[np.float64]:
    """Ascending times in [0, duration_s) of a Poisson process.

    Raises
    ------
    ValueError
        The rate or the duration is not positive.
    """
    if not (rate_per_s > 0 and duration_s > 0):
        raise ValueError(f"rate and duration must be positive, not {rate_per_s} and {duration_s}")
    rng = np.random.default_rng(seed)
    # Given their number, the times of a Poisson process are independent and uniform.
    return np.sort(rng.uniform(0.0, duration_s, rng.poisson(rate_per_s * duration_s)))


def bursty_arrivals(
    rate_per_s: float, duration_s: float, gap_cv: float, seed: int
) -> NDArray[np.float64]:
    """Ascending times in [0, duration_s), a stretch of a renewal process of gamma-distributed gaps.

    Parameters
    ----------
    gap_cv : float
        Standard deviation of a gap over its mean: 1 is a Poisson process, above it requests come in
        bursts.

    Raises
    ------
    ValueError
        A value is not positive.
    """
    if not (rate_per_s > 0 and duration_s > 0 and gap_cv > 0):
        raise ValueError(
            "rate, duration and gap_cv must be positive, not"
            f" {rate_per_s}, {duration_s} and {gap_cv}"
        )
    rng = np.random.default_rng(seed)
    shape = gap_cv**-2
    times, last = [], -duration_s  # starts early, so that the beginning is not a renewal
    while last < duration_s:
        gaps = rng.gamma(shape, 1 / (shape * rate_per_s), 1_024)
        times.append(last + np.cumsum(gaps))
        last = float(times[-1][-1])
    every = np.concatenate(times)
    return every[(every >= 0) & (every < duration_s)]


class RecordingPicker:
    """Hands out recordings in a seeded order, never one twice at the same time.

    Two copies of one recording in a batch would share every expert, which is more locality than any
    real workload has. The order is a sequence of random rounds over all recordings; one that is
    still in flight keeps its place, and the next free one goes first. So all are used equally
    often, and policies compared with one seed see the same requests as far as possible.

    Parameters
    ----------
    recordings : int
    seed : int
    again : bool
        If all are in flight, hand out one with the fewest copies in flight instead of none: an open
        loop, where arrivals do not wait.
    """

    def __init__(self, recordings: int, seed: int, again: bool = False) -> None:
        self._recordings = recordings
        self._again = again
        self._rng = np.random.default_rng(seed)
        self._line: list[int] = []
        self._copies = [0] * recordings

    def take(self) -> int | None:
        """The next free recording, now in flight; None if all are, so that the arrival waits."""
        fewest = min(self._copies)
        if fewest and not self._again:
            return None
        while True:
            for place, recording in enumerate(self._line):
                if self._copies[recording] == fewest:
                    del self._line[place]
                    self._copies[recording] += 1
                    return recording
            self._line.extend(self._rng.permutation(self._recordings).tolist())

    @property
    def in_flight(self) -> int:
        """Number of recordings taken and not given back."""
        return sum(self._copies)

    @property
    def all_in_flight(self) -> bool:
        """Whether the next one would be a copy of a request in flight, or none."""
        return min(self._copies) > 0

    def give_back(self, recording: int) -> None:
        """Its request has ended; KeyError if it is not in flight."""
        if not self._copies[recording]:
            raise KeyError(recording)
        self._copies[recording] -= 1
