"""How numbers are written, in tables, pictures and the verdict alike."""

import math
from collections.abc import Iterable

from eldr_service.lab.simulation.comparison import Change, Margin

MINUS = "\N{MINUS SIGN}"
PLUS_MINUS = "±\N{NO-BREAK SPACE}"


def number(value: float | None, digits: int = 2) -> str:
    """With `digits` decimals; a dash for None."""
    if value is None or math.isnan(value):
        return "–"
    return _proper(f"{value:,.{digits}f}")


def milliseconds(value: float | None) -> str:
    """With three significant digits."""
    if value is None or math.isnan(value) or value == 0:
        return number(value)
    return number(value, max(0, 2 - math.floor(math.log10(abs(value)))))


def percent(value: float, signed: bool = True) -> str:
    """With one decimal."""
    return _proper(f"{value:{'+' if signed else ''}.1%}")


def change(found: Change | Margin | None) -> str:
    """A change, with half of its symmetric 95% interval if there is one."""
    if found is None:
        return "–"
    if not found.interval:
        return percent(found.relative)
    low, high = found.interval
    return f"{percent(found.relative)} {PLUS_MINUS}{number(50 * (high - low), 1)}"


def plain(value: float) -> str:
    """In the shortest form."""
    written = f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return _proper(written)


def listed(words: Iterable[str]) -> str:
    """Joined with commas, the last with "and"."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _proper(written: str) -> str:
    """With a proper minus sign, and without a sign if it rounds to zero."""
    unsigned = written.lstrip("+-")
    return written.replace("-", MINUS) if unsigned.strip("0.,%") else unsigned
