"""How numbers are written: the same on the page, in the PDF and in the verdict."""

import math

from eldr_service.lab.simulation.comparison import Change, Margin

MINUS = "\N{MINUS SIGN}"


def number(value: float | None, digits: int = 2) -> str:
    """With so many decimals; a dash of nothing."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:,.{digits}f}".replace("-", MINUS)


def milliseconds(value: float | None) -> str:
    """With three digits that matter."""
    if value is None or math.isnan(value) or value == 0:
        return number(value)
    return number(value, max(0, 2 - math.floor(math.log10(abs(value)))))


def percent(value: float, signed: bool = True) -> str:
    """With one decimal."""
    return f"{value:{'+' if signed else ''}.1%}".replace("-", MINUS)


def change(found: Change | Margin | None, between: str = " ") -> str:
    """A change, and its interval in brackets where there is one."""
    if found is None:
        return "–"
    within = f"{between}({span(found.interval)})" if found.interval else ""
    return percent(found.relative) + within


def span(ends: tuple[float, float]) -> str:
    """An interval of relative changes."""
    return f"{percent(ends[0])} to {percent(ends[1])}"


def plain(value: float) -> str:
    """As short as it can be written."""
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
