"""Positions of values on an axis, and its round tick values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from eldr_service.lab.reports.words import number


@dataclass(frozen=True)
class Axis:
    """A linear axis: `low` is at `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float) -> "Axis":
        """An axis with some margin around the finite values."""
        known = [value for value in values if math.isfinite(value)] or [0.0]
        air = 0.06 * (max(known) - min(known)) or abs(known[0]) * 0.1 or 1.0
        return cls(min(known) - air, max(known) + air, start, end)

    def at(self, value: float) -> float:
        """The position of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values on the axis, evenly spaced, as many as fit."""
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * times for times in (1, 2, 2.5, 5, 10) if power * times >= 0.999 * rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [round(i * step, 12) for i in range(first, last + 1)]


def named(ticks: Sequence[float], percent: bool = False) -> list[str]:
    """Labels with as many decimals as distinguish them; relative changes as percent."""
    times = 100 if percent else 1
    step = min((b - a for a, b in pairwise(ticks)), default=1.0) * times
    digits = next((d for d in range(6) if abs(step - round(step, d)) < 1e-6 * step), 6)
    if not percent:
        return [number(tick, digits) for tick in ticks]
    return [f"{'+' if tick > 0 else ''}{number(tick * times, digits)}%" for tick in ticks]
