"""Line plots with each line's name at its right end."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

from eldr_service.lab.reports.axis import Axis, named
from eldr_service.lab.reports.palette import variable
from eldr_service.lab.reports.svg import (
    LETTER,
    TEXT,
    WIDTH,
    element,
    line,
    picture,
    shortened,
    text,
)
from eldr_service.lab.reports.words import plain

HEIGHT = 206.0
TOP, BOTTOM, LEFT = 28.0, 162.0, 46.0
MOST_LETTERS = 21  # of a name


@dataclass(frozen=True)
class Line:
    """One line of a plot.

    Attributes
    ----------
    name, colour : str
        The light colour.
    x, y : sequence of float
    low, high : sequence of float, optional
        Ends of its intervals.
    dashed : bool
    doubtful : sequence of bool, optional
        Points to draw hollow.
    """

    name: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    _: KW_ONLY
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dashed: bool = False
    doubtful: Sequence[bool] | None = None


@dataclass(frozen=True)
class Plot:
    """A plot to draw.

    Attributes
    ----------
    lines : sequence of Line
    x_label, y_label : str
    percent : bool
        The y axis shows relative changes, and zero is drawn.
    across : (y, words), optional
        A horizontal line, such as a target.
    marks : float, optional
        An x to mark: the value in the report's other figures.
    even : bool
        The points are equally far apart, whatever their values, each labelled below.
    """

    lines: Sequence[Line]
    x_label: str
    y_label: str
    _: KW_ONLY
    percent: bool = False
    across: tuple[float, str] | None = None
    marks: float | None = None
    even: bool = False

    def draw(self, name: str, title: str, description: str) -> str:
        """An <svg> element; `name` must be unique on the page."""
        return picture(name, HEIGHT, self._parts(), title, description)

    def _parts(self) -> Iterator[str]:
        right = WIDTH - 14 - LETTER * max(len(_short(each)) for each in self.lines)
        places = sorted({value for each in self.lines for value in each.x})
        if self.even:
            x = Axis(-0.3, len(places) - 0.7, LEFT, right)
            at = {value: x.at(i) for i, value in enumerate(places)}
            below = [(at[value], plain(value)) for value in places]
        else:
            x = Axis.around(
                [*places, *([self.marks] if self.marks is not None else [])], LEFT, right
            )
            at = {value: x.at(value) for value in places}
            ticks = x.ticks(4)
            below = [(x.at(t), words) for t, words in zip(ticks, named(ticks), strict=True)]
        y = Axis.around(self._heights(), BOTTOM, TOP)
        yield text(self.y_label, 0, 8, bold=True)
        if self.marks is not None:
            width, mark = 5.0, x.at(self.marks)
            yield element(
                "rect", x=mark - width / 2, y=TOP, width=width, height=BOTTOM - TOP, class_="mark"
            )
        ticks = y.ticks()
        for tick, words in zip(ticks, named(ticks, self.percent), strict=True):
            yield line(LEFT, y.at(tick), right, y.at(tick), "grid")
            yield text(words, LEFT - 6, y.at(tick), anchor="end")
        if self.percent:
            yield line(LEFT, y.at(0), right, y.at(0), "zero")
        for place, words in below:
            yield text(words, place, BOTTOM + 13, anchor="middle")
        yield text(self.x_label, (LEFT + right) / 2, BOTTOM + 32, anchor="middle")
        if self.across is not None:
            height, words = self.across
            yield line(LEFT, y.at(height), right, y.at(height), "across")
            yield text(words, LEFT + 4, y.at(height) + 9)
        for each in self.lines:
            yield from _drawn(each, at, y)
        yield from _names(self.lines, at, y, right)

    def _heights(self) -> list[float]:
        drawn = [
            value
            for each in self.lines
            for value in (*each.y, *(each.low or ()), *(each.high or ()))
        ]
        return [
            *drawn,
            *([0.0] if self.percent else []),
            *([self.across[0]] if self.across else []),
        ]


def _short(each: Line) -> str:
    return shortened(each.name, MOST_LETTERS)


def _drawn(each: Line, at: dict[float, float], y: Axis) -> Iterator[str]:
    colour = f"var({variable(each.colour)})"
    known = [i for i, value in enumerate(each.y) if math.isfinite(value)]
    points = " ".join(f"{at[each.x[i]]:.1f},{y.at(each.y[i]):.1f}" for i in known)
    dashes = ";stroke-dasharray:5 3" if each.dashed else ""
    yield element("polyline", points=points, class_="line", style=f"stroke:{colour}{dashes}")
    for i in known:
        place = at[each.x[i]]
        if each.low is not None and each.high is not None:
            ends = y.at(each.low[i]), y.at(each.high[i])
            yield line(place, ends[0], place, ends[1], "interval", f"stroke:{colour}")
        hollow = each.doubtful is not None and each.doubtful[i]
        fill = "var(--page)" if hollow else colour
        yield element(
            "circle", cx=place, cy=y.at(each.y[i]), r=2.6, style=f"stroke:{colour};fill:{fill}"
        )


def _names(lines: Sequence[Line], at: dict[float, float], y: Axis, right: float) -> Iterator[str]:
    """Each name beside its line's end, without overlaps, in order of height."""
    shown = [each for each in lines if math.isfinite(each.y[-1])]
    ends = sorted((y.at(each.y[-1]), i) for i, each in enumerate(shown))
    heights = spread([height for height, _ in ends], TEXT + 2, TOP - 8, BOTTOM + 6)
    for height, (end, i) in zip(heights, ends, strict=True):
        each = shown[i]
        style = f"stroke:var({variable(each.colour)})"
        start = at[each.x[-1]] + 4
        yield element(
            "polyline",
            points=f"{start:.1f},{end:.1f} {right:.1f},{height:.1f} {right + 7:.1f},{height:.1f}",
            class_="leader",
            style=style,
        )
        yield text(_short(each), right + 10, height, quiet=False)


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending heights, moved as little as necessary to be `gap` apart, between low and high."""
    gap = min(gap, (high - low) / max(1, len(heights) - 1))
    placed = [max(low, height) for height in heights]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    top = high
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], top)
        top = placed[i] - gap
    return placed
