"""A sliding window of recently placed activation counts, to fit partitions on."""

import math
import random

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.activation import Counts


class RecentCounts:
    """A sample of the complete counts of one geometry that came in the last `span` seconds.

    The memory is fixed, and the window covers its span at any request rate: each new request is
    kept with probability capacity / requests per span, in place of the oldest. Until that number is
    known, and after a sudden rush, the window is shorter.

    Counts are kept in 16 bits. A request with a count above 65,535 is halved as a whole until it
    fits, rounding down, which changes its signature only for experts that it hardly used.

    Parameters
    ----------
    max_bytes : int
    span : float
        Seconds.

    Attributes
    ----------
    kept : int
        How many were ever kept; never decreases.
    """

    def __init__(self, max_bytes: int = 64 << 20, span: float = 1_800.0) -> None:
        self.max_bytes = max_bytes
        self.span = span
        self.kept = 0
        self._is_open = True
        self._chance = random.Random(0)
        self._rows = np.empty((0, 0, 0), np.uint16)
        self._times = np.empty(0)
        self._next = self._held = 0
        self._arrivals, self._last_arrival = 0.0, 0.0  # the first decays with the span

    def __len__(self) -> int:
        return self._held

    @property
    def is_open(self) -> bool:
        """Whether counts are accepted; closing forgets all."""
        return self._is_open

    @is_open.setter
    def is_open(self, is_open: bool) -> None:
        if self._is_open and not is_open:
            self.clear()
        self._is_open = is_open

    def add(self, counts: Counts, now: float) -> None:
        """Add counts [num_layers, num_experts]; another shape empties the window first."""
        if not self._is_open:
            return
        if self._rows.shape[1:] != counts.shape:
            self.clear()
            places = self.max_bytes // (counts.size * 2)
            self._rows = np.empty((places, *counts.shape), np.uint16)
            self._times = np.empty(places)
        places = len(self._rows)
        self._arrivals *= math.exp((self._last_arrival - now) / self.span)
        self._arrivals += 1.0
        self._last_arrival = now
        if self._chance.random() * self._arrivals >= places:
            return
        fits = counts.dtype == np.uint16
        too_wide = 0 if fits else int(counts.max(initial=0)).bit_length() - 16
        self._rows[self._next] = counts >> too_wide if too_wide > 0 else counts
        self._times[self._next] = now
        self._next = (self._next + 1) % places
        self._held = min(self._held + 1, places)
        self.kept += 1

    def spill(self, now: float) -> None:
        """Drop counts older than the span."""
        order = self._order()
        self._held -= int(np.searchsorted(self._times[order], now - self.span))

    def clear(self) -> None:
        """Forget everything and free the memory."""
        self._rows = np.empty((0, 0, 0), np.uint16)
        self._times = np.empty(0)
        self._next = self._held = 0
        self._arrivals, self._last_arrival = 0.0, 0.0

    def runs(self) -> list[NDArray[np.uint16]]:
        """All counts held, as one or two views [n, num_layers, num_experts], oldest first."""
        begin = self._next - self._held
        if begin >= 0:
            return [self._rows[begin : self._next]]
        return [self._rows[begin:], self._rows[: self._next]]

    @property
    def oldest(self) -> float:
        """When the oldest counts held came in; infinite if there are none."""
        return float(self._times[self._next - self._held]) if self._held else math.inf

    def after(
        self, kept: int, max_bytes: int
    ) -> tuple[int, NDArray[np.uint16], NDArray[np.float64]]:
        """A copy of what came in after the first `kept` counts ever kept, oldest first.

        Returns
        -------
        kept : int
            To continue from; at least one row is returned if there is any.
        counts : ndarray of uint16, shape [n, num_layers, num_experts]
        times : ndarray of float64, shape [n]
        """
        new = min(self.kept - kept, self._held)
        most = max(1, max_bytes // max(1, self._rows[:1].nbytes))
        order = self._order()[self._held - new :][:most]
        return self.kept - new + len(order), self._rows[order], self._times[order]

    def newest(self, most: int) -> NDArray[np.uint16]:
        """A copy of the latest counts, at most `most`, shape [n, num_layers, num_experts]."""
        latest: NDArray[np.uint16] = self._rows[self._order()[max(0, self._held - most) :]]
        return latest

    def _order(self) -> NDArray[np.int64]:
        return np.arange(self._next - self._held, self._next)  # negative indices count from the end
